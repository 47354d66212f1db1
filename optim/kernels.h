// Kernel pairs of the optimizers (tensor/kernels.h has the rules).
#pragma once

#include "tensor/kernels.h"

namespace nibble {

// y (bf16) = x (f32) rounded up or down with the probabilities that make it unbiased: the low 16
// bits of x plus a 16-bit draw of the element decide. Not-finite values are kept.
NIBBLE_KERNEL(stochastic_bf16, Tensor& y, const Tensor& x, const RngKey& key)

struct AdamScalars {
  float lr, beta1, beta2, epsilon, clip;
  float decay;        // 1 − lr·weight_decay, on the weight before the update
  float correction1;  // 1 / (1 − β₁ᵗ)
  float correction2;  // 1 / √(1 − β₂ᵗ)
};
// g = clip·gradient; w ·= decay; m += (1 − β₁)(g − m); v = β₂·v + (1 − β₂)·g²;
// w −= lr·correction1·m / (√v·correction2 + ε). All f32 but the gradient (any float); tier A.
NIBBLE_KERNEL(adam, Tensor& w, Tensor& m, Tensor& v, const Tensor& gradient, const AdamScalars& s)
// g = clip·gradient; w ·= decay; m = μ·m + g; w −= lr·(nesterov ? g + μ·m : m). m undefined: plain
// SGD.
struct SgdScalars {
  float lr, momentum, clip, decay;
  bool nesterov;
};
NIBBLE_KERNEL(sgd, Tensor& w, Tensor& m, const Tensor& gradient, const SgdScalars& s)

}  // namespace nibble
