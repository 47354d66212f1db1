// A product with a bias that is added before the one rounding to the result's dtype.
#pragma once

#include "tensor/kernels.h"

namespace nibble {

// c [1, M, N] = a [1, M, K] · b [1, K, N] + bias [N], all of one float dtype; strides as matmul's
// (tensor/kernels.h), bias contiguous. Sums of bf16 operands and the bias are added in f32 and
// rounded once.
NIBBLE_KERNEL(matmul_bias, Tensor& c, const Tensor& a, const Tensor& b, const Tensor& bias)

namespace ops {
// c [M, N] = a [M, K] · b [K, N] + bias [N], c contiguous. Errors: those of matmul_into; a bias or
// a c of another shape, dtype or device.
void matmul_bias_into(Tensor& c, const Tensor& a, const Tensor& b, const Tensor& bias);
}  // namespace ops

}  // namespace nibble
