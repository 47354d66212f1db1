// Register tiles of integer products: what quant/cpu/int_gemm.cpp is built from.
#pragma once

#include <cstdint>

namespace nibble::cpu {

// Codes travel as int16 pairs of neighbouring k in one word (low half: even k), so that one
// multiply-add instruction handles a pair. A panel is kTileRows rows of a, or kTileCols rows of b,
// interleaved pair by pair: word (p, r) is panel[p · rows + r]. 4 × 16 sums take 8 of the 16 AVX2
// registers; with more, g++ spills and loses 40 %.
inline constexpr std::int64_t kTileRows = 4, kTileCols = 16;

// Largest depth that is exact in int32 for any codes of 8 bits: 255² · 32768 < 2³¹.
inline constexpr std::int64_t kMaxDepth = 32768;
static_assert(255LL * 255 * kMaxDepth <= INT32_MAX);

// sums[i][j] = Σ over `pairs` ≤ kMaxDepth / 2 words of a[p][i] · b[p][j], both halves.
void dot_tile(std::int32_t* sums /*[kTileRows, kTileCols]*/, const std::int32_t* a,
              const std::int32_t* b, std::int64_t pairs);
// The same in portable code: every machine gives the same integers.
void dot_tile_portable(std::int32_t* sums, const std::int32_t* a, const std::int32_t* b,
                       std::int64_t pairs);

}  // namespace nibble::cpu
