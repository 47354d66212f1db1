// Runs of 16-bit draws, the noise of stochastic rounding.
#pragma once

#include <cstdint>

#include "tensor/rng.h"

namespace nibble::cpu {

// Draws are made in whole groups: a buffer for n of them needs this much room in front and behind.
inline constexpr std::int64_t kDrawSlack = 128;

// Draws of elements [first, first + n) into `out`, which has room for n + kDrawSlack; returns where
// draw `first` is.
const std::uint16_t* fill_draws(const RngKey& key, std::uint64_t first, std::int64_t n,
                                std::uint16_t* out);

}  // namespace nibble::cpu
