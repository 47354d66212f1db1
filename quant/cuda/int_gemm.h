// The parts of cuda::int_gemm. The route (quant/int_gemm_route.h) follows from the layout alone,
// and every route gives the same bits.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "quant/int_gemm_route.h"
#include "quant/kernels.h"

namespace nibble::cuda {

// What may be chosen for a product without changing a bit of it.
struct IntPlan {
  enum class Tile : std::uint8_t { Chosen, Large, Small };  // Tiles: 128 x 128 or 64 x 64 results
  IntGemmRoute route = IntGemmRoute::General;
  Tile tile = Tile::Chosen;  // Chosen: by how they fill the device
  // Wgmma, one contraction block: results across a tile, and in how many rounds split tiles are
  // taken (quant/cuda/whole_plan.h); 0 columns: chosen by what is estimated, rounds too.
  std::uint32_t columns = 0, rounds = 0;
  bool fused = false;  // a product that ends in GELU: in one kernel, else a map follows
  bool operator==(const IntPlan&) const = default;
};
std::string to_text(
    const IntPlan& plan);  // "wgmma columns=256 rounds=1", "tiles large", "resident"
// What a product's plan is looked up by in the process's table (tensor/product_plans.h).
struct IntProductKey {
  std::int64_t m = 0, n = 0, k = 0, block = 0;
  DType a = DType::I8, b = DType::I8, c = DType::F32;
  bool zero_points = false, accumulate = false, bias = false, gelu = false;
  std::int64_t a_columns = 1, b_columns = 1;  // of scales: 1, or one for each block
  std::int64_t a_tile_rows = 1, b_tile_rows = 1;
  auto operator<=>(const IntProductKey&) const = default;
};
std::string int_key(const IntProductKey& key);
// Everything that serves a product, what is taken without a table first.
std::vector<IntPlan> int_candidates(const IntProductKey& key);
// Products of this process since its table last changed.
std::vector<IntProductKey> int_products();

// The routes. Codes of all but the last are K-major bytes in rows of a multiple of 16, 16-byte
// aligned: `padded_codes` makes them (itself when they are), U8 from U8 and else I8, zeros beyond
// k. `code_rows` leaves rows as far apart as they are, `row_bytes`, where that is a multiple of 16.
struct IntProduct {
  Tensor c;  // [M, N] F32 or BF16, rows may be strided
  CodeOperand a, b;
  std::int64_t k, block;
  Tensor bias;  // F32 or BF16 [N], or undefined
  bool accumulate;
  IntPlan plan = {};

  std::int64_t m() const { return c.size(0); }
  std::int64_t n() const { return c.size(1); }
  std::int64_t blocks() const { return k == 0 ? 0 : (k + block - 1) / block; }
};
Tensor padded_codes(const CodeOperand& x, std::int64_t k);
Tensor code_rows(const CodeOperand& x, std::int64_t k);
std::int64_t row_bytes(const Tensor& codes);
void int_gemm_library(const IntProduct& p);
void int_gemm_resident(const IntProduct& p);  // one block of at most kMaxResidentDepth
void int_gemm_wgmma(const IntProduct& p);     // compute capability 9.0, by the parts that follow
// One contraction block; with zero points or codes without sign; ending in GELU (`before`: what it
// is applied to, may be undefined); several blocks of 128 · n codes.
void int_gemm_whole(const IntProduct& p);
void int_gemm_zeros(const IntProduct& p);
void int_gemm_gelu_whole(const IntProduct& p, const Tensor& before);
void int_gemm_grouped(const IntProduct& p);
void int_gemm_tiles(const IntProduct& p);
void int_gemm_general(const IntProduct& p);
void int_gemm_by(const IntProduct& p, const IntPlan& plan);  // the route that the plan names
void int_gemm_gelu_by(const IntProduct& p, const Tensor& before, const IntPlan& plan);
// c rows [first, first + sums rows) from exact sums I32 [rows, N] of a product with one block.
void scale_sums(const IntProduct& p, const Tensor& sums, std::int64_t first);

}  // namespace nibble::cuda
