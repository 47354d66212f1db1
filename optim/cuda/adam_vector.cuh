// AdamW of a lane's eight elements, with roots and quotients rounded once by the sequences that
// CUDA has for arguments of moderate size: their range is checked once for all eight.
#pragma once

#include "optim/update_math.h"
#include "tensor/cuda/common.cuh"

namespace nibble::cuda {

// √x for x from 2^-101: a root from its approximate inverse, corrected by a remainder. Right for
// each of these floats.
__device__ inline float moderate_root(float x) {
  float inverse;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
  const float y = codec::mul(x, inverse);
  return std::fma(std::fma(-y, y, x), codec::mul(inverse, 0.5f), y);
}
// 1 / d but for an ulp, for d of 2^-100 to 2^100.
__device__ inline float moderate_inverse(float d) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(d));
  return std::fma(r, std::fma(-d, r, 1.0f), r);
}
// n / d, where the quotient is not denormal and 2^-48 n not below 2^-149, so that the remainder
// that corrects it is exact.
__device__ inline float moderate_quotient(float n, float d) {
  const float r = moderate_inverse(d), first = codec::mul(n, r);
  return std::fma(r, std::fma(-d, first, n), first);
}

// Bits of the largest magnitudes of a vector.
struct MostOfMoments {
  std::uint32_t m, v;
};

// `moderate`: the step's own numbers leave divisors in range.
struct AdamVector {
  update::Adam element;
  bool moderate;

  __device__ explicit AdamVector(const update::Adam& of)
      : element(of),
        moderate(of.correction2 >= 0x1p-10f && of.correction2 <= 0x1p10f && of.epsilon >= 0.0f &&
                 of.epsilon <= 0x1p20f) {}

  // Not `some`: no result counts but for the magnitudes of zeros.
  __device__ MostOfMoments operator()(float (&w)[8], float (&m)[8], float (&v)[8],
                                      const float (&g)[8], bool some) const {
    std::uint32_t vs[8], ms[8];  // a magnitude's bits, and twice a magnitude's
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      element.moments(m[j], v[j], g[j]);
      vs[j] = std::bit_cast<std::uint32_t>(v[j]);
      ms[j] = std::bit_cast<std::uint32_t>(m[j]) * 2;
    }
    const std::uint32_t most_v = most_of(vs), most_m = most_of(ms) / 2;
    const float least = codec::mul(element.rate, std::bit_cast<float>(least_of(ms) / 2)),
                most = codec::mul(element.rate, std::bit_cast<float>(most_m));
    // v within 2^-101 … 2^40, so divisors within 2^-61 … 2^31; dividends within 2^-90 … 2^60.
    if ((moderate && least_of(vs) >= 0x0d000000u && most_v <= 0x53800000u && least >= 0x1p-90f &&
         most <= 0x1p60f) ||
        !some) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float step = moderate_quotient(codec::mul(element.rate, m[j]),
                                             element.divisor_of(moderate_root(v[j])));
        w[j] = codec::sub(codec::mul(w[j], element.decay), step);
      }
      return {most_m, most_v};
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float step =
          codec::div(codec::mul(element.rate, m[j]), element.divisor_of(update::root(v[j])));
      w[j] = codec::sub(codec::mul(w[j], element.decay), step);
    }
    std::uint32_t all = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) all = ::max(all, std::bit_cast<std::uint32_t>(v[j]) & 0x7fffffffu);
    return {most_m, all};
  }

 private:
  __device__ static std::uint32_t most_of(const std::uint32_t (&x)[8]) {
    const std::uint32_t a = __vimax3_u32(x[0], x[1], x[2]), b = __vimax3_u32(x[3], x[4], x[5]);
    return ::max(__vimax3_u32(a, b, x[6]), x[7]);
  }
  __device__ static std::uint32_t least_of(const std::uint32_t (&x)[8]) {
    const std::uint32_t a = __vimin3_u32(x[0], x[1], x[2]), b = __vimin3_u32(x[3], x[4], x[5]);
    return ::min(__vimin3_u32(a, b, x[6]), x[7]);
  }
};

}  // namespace nibble::cuda
