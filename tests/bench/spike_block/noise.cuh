// Philox4x32-10 and the quantizer's scalar arithmetic, one definition for host and device.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace nibble::spike {

struct Bits4 {
  std::uint32_t x, y, z, w;
};

struct NoiseKey {
  std::uint32_t seed_lo = 0, seed_hi = 0, site = 0, step = 0;
};

/// Philox4x32-10 (Salmon et al., SC'11).
__host__ __device__ constexpr Bits4 philox(Bits4 counter, std::uint32_t k0, std::uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * counter.x;
    const std::uint64_t b = std::uint64_t{0xCD9E8D57u} * counter.z;
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter.y ^ k0, static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter.w ^ k1, static_cast<std::uint32_t>(a)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return counter;
}
// Random123's known answer for an all-zero counter and key.
static_assert(philox({0, 0, 0, 0}, 0, 0).x == 0x6627e8d5u);
static_assert(philox({0, 0, 0, 0}, 0, 0).w == 0x9b00dbd8u);

/// The eight 16-bit draws of elements 8·block … 8·block + 7.
__host__ __device__ constexpr Bits4 draws(std::uint64_t block, NoiseKey key) {
  return philox({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                 key.site, key.step},
                key.seed_lo, key.seed_hi);
}

/// A 16-bit draw as u − ½ with u = (draw + ½) / 65536: symmetric, never ±½.
__host__ __device__ inline float centered(std::uint32_t draw16) {
  const std::uint32_t bits = 0x3f800000u | (draw16 << 7);  // 1 + draw / 65536
#ifdef __CUDA_ARCH__
  return __fadd_rn(__uint_as_float(bits), -1.5f + 0x1p-17f);
#else
  return std::bit_cast<float>(bits) + (-1.5f + 0x1p-17f);
#endif
}

/// 127 / absmax rounded toward zero, so that |x · inverse| never passes 127 and codes need no
/// clamp.
__host__ __device__ inline float inverse_scale(float absmax) {
  if (!(absmax > 0.0f)) return 0.0f;
#ifdef __CUDA_ARCH__
  return __fdiv_rz(127.0f, absmax);
#else
  const float q = 127.0f / absmax;
  return std::fma(q, absmax, -127.0f) > 0.0f ? std::nextafter(q, 0.0f) : q;
#endif
}

/// rne(x · inverse + noise) as an int8 code in the low byte: adding 1.5 · 2^23 rounds to an integer
/// and leaves it in the mantissa.
__host__ __device__ inline std::uint32_t encode_byte(float x, float inverse, float noise) {
  constexpr float kRound = 12582912.0f;
#ifdef __CUDA_ARCH__
  return __float_as_uint(__fadd_rn(__fadd_rn(__fmul_rn(x, inverse), noise), kRound));
#else
  const float scaled = x * inverse;
  const float noisy = scaled + noise;
  return std::bit_cast<std::uint32_t>(noisy + kRound);
#endif
}

}  // namespace nibble::spike
