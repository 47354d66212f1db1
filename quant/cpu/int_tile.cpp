// 6 × 16 sums of int16 pairs take 12 of AVX2's 16 registers, if all loops over them are unrolled.
// AVX-512 has 32 registers and VNNI four products a lane: 12 × 32 sums take 24, and every operand
// that is loaded serves 12 or 2 multiplications.
#include <array>
#include <atomic>
#include <vector>

#include "quant/cpu/int_gemm.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace nibble::cpu {
namespace {

template <std::int64_t kRows, std::int64_t kCols>
void dot_pairs(std::int32_t* sums, const std::int32_t* a, const std::int32_t* b,
               std::int64_t words) {
  const auto low = [](std::int32_t w) {
    return std::int32_t{static_cast<std::int16_t>(w & 0xffff)};
  };
  const auto high = [](std::int32_t w) { return std::int32_t{static_cast<std::int16_t>(w >> 16)}; };
  std::int32_t acc[kRows][kCols] = {};
  for (std::int64_t w = 0; w < words; ++w, a += kRows, b += kCols)
    for (std::int64_t i = 0; i < kRows; ++i)
      for (std::int64_t j = 0; j < kCols; ++j)
        acc[i][j] += low(a[i]) * low(b[j]) + high(a[i]) * high(b[j]);
  for (std::int64_t i = 0; i < kRows; ++i)
    for (std::int64_t j = 0; j < kCols; ++j) sums[i * kCols + j] = acc[i][j];
}
constexpr IntTile kPortable{"int16 pairs", 4, 16, 2, dot_pairs<4, 16>};

#ifdef __x86_64__
__attribute__((target("avx2"))) void dot_avx2(std::int32_t* sums, const std::int32_t* a,
                                              const std::int32_t* b, std::int64_t words) {
  constexpr int kRows = 6, kCols = 16;
  __m256i acc[kRows][2];
#pragma GCC unroll 6
  for (auto& row : acc) row[0] = row[1] = _mm256_setzero_si256();
  for (std::int64_t w = 0; w < words; ++w, a += kRows, b += kCols) {
    const auto* at = reinterpret_cast<const __m256i*>(b);  // intrinsics' pointer type
    const __m256i b0 = _mm256_loadu_si256(at), b1 = _mm256_loadu_si256(at + 1);
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const __m256i pair = _mm256_set1_epi32(a[i]);
      acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(pair, b0));
      acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(pair, b1));
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
    auto* out = reinterpret_cast<__m256i*>(sums + i * kCols);
    _mm256_storeu_si256(out, acc[i][0]);
    _mm256_storeu_si256(out + 1, acc[i][1]);
  }
}
constexpr IntTile kAvx2{"AVX2, int16 pairs", 6, 16, 2, dot_avx2};

__attribute__((target("avx512f,avx512vnni"))) void dot_vnni(std::int32_t* sums,
                                                            const std::int32_t* a,
                                                            const std::int32_t* b,
                                                            std::int64_t words) {
  constexpr int kRows = 12, kCols = 32;
  __m512i acc[kRows][2];
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) acc[i][0] = acc[i][1] = _mm512_setzero_si512();
  for (std::int64_t w = 0; w < words; ++w, a += kRows, b += kCols) {
    const __m512i b0 = _mm512_loadu_si512(b), b1 = _mm512_loadu_si512(b + 16);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      const __m512i four = _mm512_set1_epi32(a[i]);
      acc[i][0] = _mm512_dpbusd_epi32(acc[i][0], b0, four);
      acc[i][1] = _mm512_dpbusd_epi32(acc[i][1], b1, four);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
    _mm512_storeu_si512(sums + i * kCols, acc[i][0]);
    _mm512_storeu_si512(sums + i * kCols + 16, acc[i][1]);
  }
}
constexpr IntTile kVnni{"AVX-512 VNNI", 12, 32, 4, dot_vnni};
static_assert(kVnni.rows * kVnni.cols <= kMaxTile);
#endif

std::vector<const IntTile*> supported() {
  std::vector<const IntTile*> tiles;
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni"))
    tiles.push_back(&kVnni);
  if (__builtin_cpu_supports("avx2")) tiles.push_back(&kAvx2);
#endif
  tiles.push_back(&kPortable);
  return tiles;
}

std::atomic<const IntTile*>& chosen() {
  static std::atomic<const IntTile*> tile{int_tiles().front()};
  return tile;
}

}  // namespace

std::span<const IntTile* const> int_tiles() {
  static const std::vector<const IntTile*> tiles = supported();
  return tiles;
}
const IntTile& int_tile() { return *chosen().load(std::memory_order_relaxed); }
void use_int_tile(const IntTile& tile) { chosen().store(&tile, std::memory_order_relaxed); }

}  // namespace nibble::cpu
