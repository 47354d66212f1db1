#include "quant/cpu/int_gemm.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace nibble::cpu {
namespace {

std::int32_t low(std::int32_t word) { return static_cast<std::int16_t>(word & 0xffff); }
std::int32_t high(std::int32_t word) { return static_cast<std::int16_t>(word >> 16); }

}  // namespace

void dot_tile_portable(std::int32_t* sums, const std::int32_t* a, const std::int32_t* b,
                       std::int64_t pairs) {
  std::int32_t acc[kTileRows][kTileCols] = {};
  for (std::int64_t p = 0; p < pairs; ++p, a += kTileRows, b += kTileCols)
    for (std::int64_t i = 0; i < kTileRows; ++i)
      for (std::int64_t j = 0; j < kTileCols; ++j)
        acc[i][j] += low(a[i]) * low(b[j]) + high(a[i]) * high(b[j]);
  for (std::int64_t i = 0; i < kTileRows; ++i)
    for (std::int64_t j = 0; j < kTileCols; ++j) sums[i * kTileCols + j] = acc[i][j];
}

#ifdef __AVX2__
void dot_tile(std::int32_t* sums, const std::int32_t* a, const std::int32_t* b,
              std::int64_t pairs) {
  __m256i acc[kTileRows][2];
  for (auto& row : acc) row[0] = row[1] = _mm256_setzero_si256();
  for (std::int64_t p = 0; p < pairs; ++p, a += kTileRows, b += kTileCols) {
    const auto* words = reinterpret_cast<const __m256i*>(b);  // intrinsics' pointer type
    const __m256i b0 = _mm256_loadu_si256(words), b1 = _mm256_loadu_si256(words + 1);
#pragma GCC unroll 4
    for (int i = 0; i < kTileRows; ++i) {
      const __m256i pair = _mm256_set1_epi32(a[i]);
      acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(pair, b0));
      acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(pair, b1));
    }
  }
  for (int i = 0; i < kTileRows; ++i) {
    auto* out = reinterpret_cast<__m256i*>(sums + i * kTileCols);
    _mm256_storeu_si256(out, acc[i][0]);
    _mm256_storeu_si256(out + 1, acc[i][1]);
  }
}
#else
void dot_tile(std::int32_t* sums, const std::int32_t* a, const std::int32_t* b,
              std::int64_t pairs) {
  dot_tile_portable(sums, a, b, pairs);
}
#endif

}  // namespace nibble::cpu
