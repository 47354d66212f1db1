// An activation's gradient and its sums over rows, which the bias before it has as its gradient, in
// one pass.
#pragma once

#include "tensor/kernels.h"

namespace nibble {

// gelu_tanh_backward of [M, C], and column_sum of dx: the bits of both, one after the other.
NIBBLE_KERNEL(gelu_tanh_backward_sums, Tensor& dx, Tensor& sums /*F32 [C]*/, const Tensor& dy,
              const Tensor& x)

namespace ops {

// gelu_backward (Tanh) for f32 or bf16 x [..., C], and the sums of dx over all other dimensions.
struct SummedGradient {
  Tensor dx, column_sums;  // [..., C], F32 [C]
};
SummedGradient gelu_backward_sums(const Tensor& dy, const Tensor& x);

}  // namespace ops
}  // namespace nibble
