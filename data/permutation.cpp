#include "data/permutation.h"

#include <bit>

#include "tensor/check.h"
#include "tensor/rng.h"

namespace nibble {

Permutation::Permutation(std::int64_t size, std::uint64_t seed, std::uint64_t round)
    : size_(static_cast<std::uint64_t>(size)), seed_(seed), round_(round) {
  NIBBLE_CHECK(size > 0, "permutation", "got size {} expected at least 1", size);
  half_bits_ = (static_cast<unsigned>(std::bit_width(size_ - 1)) + 1) / 2;
}

std::uint64_t Permutation::mix(std::uint64_t value) const {
  constexpr std::uint32_t kRounds = 6;
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  std::uint64_t left = value >> half_bits_, right = value & mask;
  for (std::uint32_t i = 0; i < kRounds; ++i) {
    const Philox noise =
        philox4x32_10(static_cast<std::uint32_t>(right), i, static_cast<std::uint32_t>(round_),
                      static_cast<std::uint32_t>(round_ >> 32), seed_);
    const std::uint64_t next = left ^ (noise.v[0] & mask);
    left = right;
    right = next;
  }
  return left << half_bits_ | right;
}

std::int64_t Permutation::operator()(std::int64_t index) const {
  std::uint64_t value = static_cast<std::uint64_t>(index);
  do value = mix(value);
  while (value >= size_);
  return static_cast<std::int64_t>(value);
}

}  // namespace nibble
