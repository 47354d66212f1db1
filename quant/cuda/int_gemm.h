// The parts of cuda::int_gemm. The route (quant/int_gemm_route.h) follows from the layout alone,
// and every route gives the same bits.
#pragma once

#include <cstdint>

#include "quant/int_gemm_route.h"
#include "quant/kernels.h"

namespace nibble::cuda {

// The routes. Codes of the first two are K-major I8 in rows of k bytes, 16-byte aligned, k a
// multiple of 16: `padded_codes` makes them (itself when they are), zeros beyond the true k.
struct IntProduct {
  Tensor c;  // [M, N] F32 or BF16, rows may be strided
  CodeOperand a, b;
  std::int64_t k, block;
  Tensor bias;  // F32 [N] or undefined
  bool accumulate;

  std::int64_t m() const { return c.size(0); }
  std::int64_t n() const { return c.size(1); }
  std::int64_t blocks() const { return k == 0 ? 0 : (k + block - 1) / block; }
};
Tensor padded_codes(const CodeOperand& x, std::int64_t k);
void int_gemm_library(const IntProduct& p);
void int_gemm_wgmma(const IntProduct& p);
void int_gemm_tiles(const IntProduct& p);
void int_gemm_general(const IntProduct& p);
// c rows [first, first + sums rows) from exact sums I32 [rows, N] of a product with one block.
void scale_sums(const IntProduct& p, const Tensor& sums, std::int64_t first);

}  // namespace nibble::cuda
