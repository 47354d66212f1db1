// scalar_math.h's functions with its bits, where arguments keep every result normal: no clamps, one
// scaling by a power of two, a reciprocal without its branch. About 25 instructions less a sigmoid,
// which bf16 maps need: they are bound by instructions before they are by memory.
#pragma once

#include "tensor/scalar_math.h"

namespace nibble::cuda::fast {

// |x| ≤ kExpBound: e^x and 1 + e^x are normal, and so are their reciprocals.
inline constexpr float kExpBound = 80.0f;
__device__ inline float exp(float x) {
  const scalar::detail::ExpParts e = scalar::detail::exp_parts(x);
  return __int_as_float(__float_as_int(1.0f + e.m) + (e.n << 23));
}
// Correctly rounded for 2^-126 < |y| < 2^126: one step after the hardware's estimate, as in the
// compiler's own division.
__device__ inline float reciprocal(float y) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(y));
  return std::fma(r, std::fma(-y, r, 1.0f), r);
}
__device__ inline float sigmoid(float x) { return reciprocal(1.0f + exp(-x)); }

// |x| ≤ kGeluBound: |2u| ≤ kExpBound.
inline constexpr float kGeluBound = 9.5f;
__device__ inline float gelu_tanh(float x) { return x * sigmoid(scalar::gelu_2u(x)); }
__device__ inline float gelu_tanh_backward(float dy, float x) {
  return dy * scalar::gelu_tanh_slope(x, sigmoid(scalar::gelu_2u(x)));
}
// Of a bf16 number, for a result that is rounded to bf16: the bits of scalar::gelu_tanh's, of NaN
// and infinities too. The hardware's 2^y and 1 / y may be 6 and 3 ulp off before one of the 65,536
// results crosses a midpoint; a test has them all.
__device__ inline float gelu_tanh_bf16(float x) {
  constexpr double kLog2E = 1.4426950408889634;
  const float w = x * std::fma(static_cast<float>(-scalar::kGeluCubic * kLog2E), x * x,
                               static_cast<float>(-scalar::kTwoRootTwoOverPi * kLog2E));
  float e, s;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(w));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(s) : "f"(1.0f + e));
  return x * s;
}
__device__ inline float silu(float x) { return x * sigmoid(x); }
__device__ inline float silu_backward(float dy, float x) {
  return dy * scalar::silu_slope(x, sigmoid(x));
}

}  // namespace nibble::cuda::fast
