// Which cases of a large table run when only a sample of them is wanted.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

namespace nibble::testing {

// For tests of thousands of small cases: with NIBBLE_TEST_SAMPLE=n only one in n of them is run,
// the same ones every time, which is what fits into the time that a sanitizer takes.
inline bool in_sample() {
  static const auto every = [] {
    const char* const text = std::getenv("NIBBLE_TEST_SAMPLE");
    return std::max(1ul, text ? std::strtoul(text, nullptr, 10) : 1ul);
  }();
  static std::uint32_t count = 0;
  return (count++ * 2654435761u >> 8) % every == 0;  // in no step with the loops
}

}  // namespace nibble::testing
