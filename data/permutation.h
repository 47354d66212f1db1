// A pseudo-random order without a table.
#pragma once

#include <cstdint>

namespace nibble {

// A permutation of 0 … size-1 that is a pure function of (size, seed, round), in O(1) memory: a
// Feistel network over the next even number of bits, walked until it lands inside (Black & Rogaway,
// CT-RSA 2002; less than four steps on average).
class Permutation {
 public:
  Permutation(std::int64_t size, std::uint64_t seed, std::uint64_t round);
  std::int64_t operator()(std::int64_t index) const;

 private:
  std::uint64_t mix(std::uint64_t value) const;

  std::uint64_t size_;
  std::uint64_t seed_;
  std::uint64_t round_;
  unsigned half_bits_;
};

}  // namespace nibble
