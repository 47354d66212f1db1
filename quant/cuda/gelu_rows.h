#pragma once

#include "quant/spec.h"
#include "tensor/tensor.h"

namespace nibble::cuda {

// quant_row_runs of gelu_tanh(x), which is not kept; nearest codes, reciprocal steps.
void gelu_row_runs(Tensor& codes, Tensor& scales, const Tensor& x, const QuantSpec& spec);

}  // namespace nibble::cuda
