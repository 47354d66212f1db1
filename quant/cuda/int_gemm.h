// How cuda::int_gemm is served, and its parts. The route follows from the layout alone, and every
// route gives the same bits.
#pragma once

#include <cstdint>
#include <string_view>

#include "quant/kernels.h"

namespace nibble::cuda {

enum class IntGemmRoute : std::uint8_t {
  Library,  // cuBLASLt s8 × s8 → s32 into scratch memory, then one pass that scales
  Wgmma,    // our kernel for Hopper's warpgroup products, which scales in registers
  Tiles,    // our kernel for mma.sync, likewise
  General,  // our dp4a kernel: any codes, any blocks, zero points
};
std::string_view to_string(IntGemmRoute route);

struct IntGemmLayout {
  std::int64_t m, n, k, block;
  DType a, b;        // payloads
  bool zero_points;  // of either operand
};
// Library: only where it is asked for, as a second opinion. Wgmma: symmetric codes that fit int8
// (I8, U4x2), in one block or blocks of a multiple of 128. Tiles: the same in blocks of 32 or 64.
IntGemmRoute int_gemm_route(const IntGemmLayout& layout);

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
