// Residual sums and the norms beside them, in one pass forward and backward.
#pragma once

#include "tensor/kernels.h"
#include "tensor/ops.h"

namespace nibble {

// sum = x + residual [M, C], and layer_norm of it: the bits of both, one after the other.
NIBBLE_KERNEL(add_layer_norm, Tensor& sum, Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x,
              const Tensor& residual, const Tensor& gamma, const Tensor& beta, double epsilon)
// layer_norm_backward whose dx, rounded to its dtype, is added to `before` [M, C] of that dtype,
// the gradient that x has from elsewhere. dx must be defined. Unless `accumulate`, dgamma and dbeta
// are overwritten: as if they were 0.
NIBBLE_KERNEL(add_layer_norm_backward, Tensor& dx, Tensor& dgamma, Tensor& dbeta, const Tensor& dy,
              const Tensor& x, const Tensor& gamma, const Tensor& mean, const Tensor& rstd,
              const Tensor& before, bool accumulate)

namespace ops {

// x + residual of one shape and dtype, and the layer norm of it.
struct AddedNorm {
  Tensor sum;
  NormResult norm;
};
AddedNorm add_layer_norm(const Tensor& x, const Tensor& residual, const Tensor& gamma,
                         const Tensor& beta, double epsilon = 1e-5);

}  // namespace ops
}  // namespace nibble
