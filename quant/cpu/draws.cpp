#include "quant/cpu/draws.h"

#include <bit>
#include <cstring>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace nibble::cpu {
namespace {

constexpr int kGroup = 8;  // Philox blocks computed together

#ifdef __AVX2__
// Four blocks, a 64-bit lane each. Only the low halves count: the widening product ignores the high
// ones, which saves all masking.
struct Lanes {
  __m256i c0, c1, c2, c3;

  Lanes(std::uint64_t first, std::uint32_t site, std::uint32_t step)
      : c0(_mm256_add_epi64(_mm256_set1_epi64x(static_cast<long long>(first)),
                            _mm256_setr_epi64x(0, 1, 2, 3))),
        c1(_mm256_srli_epi64(c0, 32)),
        c2(_mm256_set1_epi64x(site)),
        c3(_mm256_set1_epi64x(step)) {}

  void round(__m256i k0, __m256i k1) {
    const __m256i a = _mm256_mul_epu32(c0, _mm256_set1_epi64x(0xD2511F53));
    const __m256i b = _mm256_mul_epu32(c2, _mm256_set1_epi64x(0xCD9E8D57));
    c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(b, 32), c1), k0);
    c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(a, 32), c3), k1);
    c1 = b;
    c3 = a;
  }
  void store(std::uint16_t* out) const {
    const __m256i w01 = _mm256_blend_epi32(c0, _mm256_slli_epi64(c1, 32), 0xaa);
    const __m256i w23 = _mm256_blend_epi32(c2, _mm256_slli_epi64(c3, 32), 0xaa);
    const __m256i even = _mm256_unpacklo_epi64(w01, w23), odd = _mm256_unpackhi_epi64(w01, w23);
    auto* to = reinterpret_cast<__m256i*>(out);
    _mm256_storeu_si256(to, _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(even, odd, 0x31));
  }
};

void fill_group(const RngKey& key, std::uint32_t step, std::uint64_t first, std::uint16_t* out) {
  Lanes low(first, key.site, step), high(first + 4, key.site, step);
  auto k0 = static_cast<std::uint32_t>(key.seed), k1 = static_cast<std::uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const __m256i v0 = _mm256_set1_epi64x(k0), v1 = _mm256_set1_epi64x(k1);
    low.round(v0, v1);
    high.round(v0, v1);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  low.store(out);
  high.store(out + 32);
}
#else
void fill_group(const RngKey& key, std::uint32_t step, std::uint64_t first, std::uint16_t* out) {
  const Draws16 draws(key, step);
  for (int b = 0; b < kGroup; ++b) {
    const Philox p = draws.block(first + static_cast<std::uint64_t>(b));
    std::memcpy(out + 8 * b, p.v.data(), sizeof p.v);
  }
}
#endif

}  // namespace

const std::uint16_t* fill_draws(const RngKey& key, std::uint64_t first, std::int64_t n,
                                std::uint16_t* out) {
  // Draws16::pick takes the low half of a word first, as memory order does here.
  static_assert(std::endian::native == std::endian::little);
  const std::uint64_t block = first >> 3;
  const std::uint64_t end = (first + static_cast<std::uint64_t>(n) + 7) >> 3;
  const std::uint32_t step = key.step_value();
  for (std::uint64_t b = block; b < end; b += kGroup)
    fill_group(key, step, b, out + 8 * (b - block));
  return out + (first & 7);
}

}  // namespace nibble::cpu
