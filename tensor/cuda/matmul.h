// The general route of cuda::matmul, and how often it was taken.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace nibble::cuda {

// cuda::matmul on our own kernel: any strides, any extents.
void multiply_generic(Tensor& c, const Tensor& a, const Tensor& b, bool accumulate);

// Products that cuBLASLt did not serve and multiply_generic did: operands without a contiguous run
// (broadcast rows), empty contractions, layouts without a repeatable algorithm.
std::uint64_t generic_products();

}  // namespace nibble::cuda
