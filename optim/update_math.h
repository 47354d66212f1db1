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

// Doubles that round after every operation: nvcc would fuse 1 − a·b.
#ifdef __CUDA_ARCH__
NIBBLE_HD inline double mul(double a, double b) { return __dmul_rn(a, b); }
NIBBLE_HD inline double sub(double a, double b) { return __dsub_rn(a, b); }
NIBBLE_HD inline double add(double a, double b) { return __dadd_rn(a, b); }
#else
NIBBLE_HD inline double mul(double a, double b) { return a * b; }
NIBBLE_HD inline double sub(double a, double b) { return a - b; }
NIBBLE_HD inline double add(double a, double b) { return a + b; }
#endif
NIBBLE_HD inline bool is_finite(double x) { return sub(x, x) == 0; }

NIBBLE_HD inline void accumulate_loss(StepScalars& s, double loss, double divisor) {
  s.loss = add(s.loss, loss / divisor);
  if (!is_finite(s.loss)) s.bad = 1;
}

NIBBLE_HD inline void clip_by_norm(StepScalars& s, double squares, double max_norm) {
  s.norm = std::sqrt(squares);
  if (!is_finite(s.norm))
    s.bad = 1;
  else if (max_norm > 0 && s.norm > max_norm)
    s.clip = static_cast<float>(max_norm / add(s.norm, 1e-6));
}

NIBBLE_HD inline void clip_parameter(StepScalars& s, double& total, double squares,
                                     double max_norm) {
  total = add(total, squares);
  const double norm = std::sqrt(squares);
  if (!is_finite(norm)) s.bad = 1;
  s.norm = std::sqrt(total);
  s.clip = max_norm > 0 && norm > max_norm ? static_cast<float>(max_norm / add(norm, 1e-6)) : 1.0f;
}

NIBBLE_HD inline void adam_corrections(float* corrections, double& power1, double& power2,
                                       double beta1, double beta2) {
  power1 = mul(power1, beta1);
  power2 = mul(power2, beta2);
  corrections[0] = static_cast<float>(1 / sub(1.0, power1));
  corrections[1] = static_cast<float>(1 / std::sqrt(sub(1.0, power2)));
}

// A group's share of a step.
struct GroupStep {
  float lr, clip, decay;

  NIBBLE_HD GroupStep(const GroupRule& group, const StepScalars& s)
      : lr(static_cast<float>(mul(static_cast<double>(s.lr), group.lr_scale))),
        clip(s.clip),
        decay(static_cast<float>(sub(1.0, mul(static_cast<double>(lr), group.weight_decay)))) {}
};

// What the scalars of a step give once for all elements.
struct Adam {
  float beta2, epsilon, clip, decay, correction2, one_b1, one_b2, rate;

  NIBBLE_HD Adam(const AdamRule& rule, const GroupStep& s, float correction1, float second)
      : beta2(rule.beta2),
        epsilon(rule.epsilon),
        clip(s.clip),
        decay(s.decay),
        correction2(second),
        one_b1(sub(1.0f, rule.beta1)),
        one_b2(sub(1.0f, rule.beta2)),
        rate(mul(s.lr, correction1)) {}

  NIBBLE_HD void operator()(float& w, float& m, float& v, float gradient) const {
    moments(m, v, gradient);
    w = sub(mul(w, decay), div(mul(rate, m), divisor_of(root(v))));
  }
  NIBBLE_HD void moments(float& m, float& v, float gradient) const {
    const float g = mul(clip, gradient);
    m = add(m, mul(one_b1, sub(g, m)));
    v = add(mul(beta2, v), mul(mul(one_b2, g), g));
  }
  NIBBLE_HD float divisor_of(float root_v) const { return add(mul(root_v, correction2), epsilon); }
};

struct Sgd {
  SgdRule rule;
  GroupStep s;

  NIBBLE_HD void operator()(float& w, float& m, float gradient) const {
    const float g = mul(s.clip, gradient);
    m = add(mul(rule.momentum, m), g);
    const float step = rule.nesterov ? add(g, mul(rule.momentum, m)) : m;
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
