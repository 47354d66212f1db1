// The update of one element, shared by both devices so that weights and moments agree bit for bit.
// Products and sums round by themselves (quant/codec.h): nvcc would fuse them.
#pragma once

#include "optim/kernels.h"
#include "quant/codec.h"

namespace nibble::update {

using codec::add;
using codec::div;
using codec::mul;
using codec::sub;

#ifdef __CUDA_ARCH__
NIBBLE_HD inline float root(float x) { return __fsqrt_rn(x); }
#else
inline float root(float x) { return std::sqrt(x); }
#endif

// What the scalars of a step give once for all elements.
struct Adam {
  float beta2, epsilon, clip, decay, correction2, one_b1, one_b2, rate;

  explicit Adam(const AdamScalars& s)
      : beta2(s.beta2),
        epsilon(s.epsilon),
        clip(s.clip),
        decay(s.decay),
        correction2(s.correction2),
        one_b1(1.0f - s.beta1),
        one_b2(1.0f - s.beta2),
        rate(s.lr * s.correction1) {}

  NIBBLE_HD void operator()(float& w, float& m, float& v, float gradient) const {
    const float g = mul(clip, gradient);
    m = add(m, mul(one_b1, sub(g, m)));
    v = add(mul(beta2, v), mul(mul(one_b2, g), g));
    const float step = div(mul(rate, m), add(mul(root(v), correction2), epsilon));
    w = sub(mul(w, decay), step);
  }
};

struct Sgd {
  SgdScalars s;

  NIBBLE_HD void operator()(float& w, float& m, float gradient) const {
    const float g = mul(s.clip, gradient);
    m = add(mul(s.momentum, m), g);
    const float step = s.nesterov ? add(g, mul(s.momentum, m)) : m;
    w = sub(mul(w, s.decay), mul(s.lr, step));
  }
  NIBBLE_HD void operator()(float& w, float gradient) const {
    w = sub(mul(w, s.decay), mul(s.lr, mul(s.clip, gradient)));
  }
};

// bf16 by the low 16 bits of x and a 16-bit draw; not-finite values are kept.
NIBBLE_HD inline bfloat16 stochastic_bf16(float x, std::uint32_t draw) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return bfloat16(x);
  return bfloat16::from_bits(static_cast<std::uint16_t>((bits + draw) >> 16));
}

}  // namespace nibble::update
