// Products of decoded small floats, the definition that every faster route is held against.
#pragma once

#include "quant/kernels.h"

namespace nibble {

// What codes [rows, cols], one a byte, mean before scaling, in f32.
Tensor decoded_codes(const Tensor& codes, const Format& format);
Tensor decoded_codes(const Tensor& codes);  // E4M3 or E5M2
// c (+)= the product of unscaled values da [M, K] and db [N, K] (F32) under the scales of a and b
// (their codes are not read): what kernels.h says of fp8_gemm, sums by ops::matmul_into.
void decoded_product(Tensor& c, const Tensor& da, const Tensor& db, const CodeOperand& a,
                     const CodeOperand& b, std::int64_t block, const Tensor& bias, bool accumulate);
// c (+)= y (+ bias) for results y [M, N] F32, which may be overwritten.
void store_product(Tensor& c, Tensor& y, const Tensor& bias, bool accumulate);

}  // namespace nibble
