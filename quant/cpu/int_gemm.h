// Register tiles of integer products: what quant/cpu/int_gemm.cpp is built from.
#pragma once

#include <cstdint>
#include <span>

namespace nibble::cpu {

// Largest depth that is exact in int32 for any codes of 8 bits: 255² · 32768 < 2³¹.
inline constexpr std::int64_t kMaxDepth = 32768;
static_assert(255LL * 255 * kMaxDepth <= INT32_MAX);

// One way to multiply a tile of `rows` × `cols` results. Neighbouring k lie together in words of 32
// bits: two int16 (low half: even k), or four bytes, signed in a and unsigned in b. A panel is
// `rows` rows of a, or `cols` rows of b, interleaved word by word: word (w, r) is
// panel[w · rows + r].
struct IntTile {
  const char* name;
  std::int64_t rows, cols;
  std::int64_t codes;  // in a word: 2 or 4
  // sums[i][j] = Σ over `words` ≤ kMaxDepth / codes of the products of a[w][i]'s codes by
  // b[w][j]'s.
  void (*dot)(std::int32_t* sums, const std::int32_t* a, const std::int32_t* b, std::int64_t words);
};
inline constexpr std::int64_t kMaxTile = 12 * 32;  // results of the largest

// Those that this machine can run, the fastest first; the last is portable code. All give the same
// integers.
std::span<const IntTile* const> int_tiles();
// The one that products use: the first, until a test names another.
const IntTile& int_tile();
void use_int_tile(const IntTile& tile);

}  // namespace nibble::cpu
