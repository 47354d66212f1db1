// Which cases of a large table run when only a sample of them is wanted.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

namespace nibble::testing {

// One in how many cases is wanted: NIBBLE_TEST_SAMPLE, 1 unless a sanitizer runs the suite.
inline unsigned long sampling() {
  static const auto every = [] {
    const char* const text = std::getenv("NIBBLE_TEST_SAMPLE");
    return std::max(1ul, text ? std::strtoul(text, nullptr, 10) : 1ul);
  }();
  return every;
}

// For tests of thousands of small cases: of sampling() only one is run, the same ones every time,
// which is what fits into the time that a sanitizer takes.
inline bool in_sample() {
  static std::uint32_t count = 0;
  return (count++ * 2654435761u >> 8) % sampling() == 0;  // in no step with the loops
}

// Steps, layers or micro-batches of a training that is compared with another one: racecheck takes a
// second for a few dozen kernels, so that its sample has at most `few` of them.
inline std::uint32_t sampled_count(std::uint32_t count, std::uint32_t few) {
  return sampling() > 16 ? std::min(count, few) : count;
}

}  // namespace nibble::testing
