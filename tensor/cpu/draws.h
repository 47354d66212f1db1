// Philox blocks and the 16-bit draws of tensor/rng.h in batches.
#pragma once

#include <array>
#include <cstdint>

#include "tensor/rng.h"

namespace nibble::cpu {

// Word w of block first_block + b, as words[w][b]. As plain loops over lanes several Philox blocks
// vectorise; one block does not.
template <std::size_t Blocks>
using BlockWords = std::array<std::array<std::uint32_t, Blocks>, 4>;
template <std::size_t Blocks>
void philox_batch(const RngKey& key, std::uint32_t step, std::int64_t first_block,
                  BlockWords<Blocks>& words) {
  static_assert(Blocks % 8 == 0);
  for (std::size_t b = 0; b < Blocks; ++b) {
    const std::uint64_t block = static_cast<std::uint64_t>(first_block) + b;
    const Philox p =
        philox4x32_10(static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                      key.site, step, key.seed);
    for (std::size_t w = 0; w < 4; ++w) words[w][b] = p.v[w];
  }
}

// The N draws from number 8·first_block on.
template <std::size_t N>
void draw_batch(const RngKey& key, std::uint32_t step, std::int64_t first_block,
                std::array<std::uint16_t, N>& out) {
  static_assert(N % 64 == 0);
  BlockWords<N / 8> words;
  philox_batch(key, step, first_block, words);
  for (std::size_t b = 0; b < N / 8; ++b)
    for (std::size_t w = 0; w < 4; ++w) {
      out[8 * b + 2 * w] = static_cast<std::uint16_t>(words[w][b]);
      out[8 * b + 2 * w + 1] = static_cast<std::uint16_t>(words[w][b] >> 16);
    }
}

}  // namespace nibble::cpu
