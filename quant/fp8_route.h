// Which route serves a product of e4m3 and e5m2 codes on a GPU: a function of its layout alone, so
// that every build can tell. cuBLASLt's conditions (its documentation, table of FP8 kernels, and
// Hopper's): both operands K-major, not both e5m2, K and N multiples of 16, results bf16 or f32.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "quant/product.h"
#include "tensor/dtype.h"

namespace nibble {

enum class Fp8Route : std::uint8_t {
  TensorScales,  // cuBLASLt with one scale an operand
  RowScales,     // cuBLASLt with a scale for each row of both (outer vectors)
  BlockScales,   // cuBLASLt with a scale for 1 × 128 or 128 × 128 codes, not squares in both
  Rescaled,      // cuBLASLt's f32 sums of codes for each contraction block, then rescale_product
  Decoded,       // codes become f32, which are multiplied
};
std::string_view to_string(Fp8Route route);

struct Fp8Layout {
  std::int64_t m, n, k, block;            // codes of the contraction under one scale; k: all
  DType a, b;                             // payloads, E4M3 or E5M2
  std::int64_t a_tile_rows, b_tile_rows;  // rows under one scale
};
// RowScales and BlockScales give way to Rescaled where the library in use has no such algorithm
// (they came with cuBLASLt 12.9, for compute capability 9.0), any of them to Decoded where it has
// none at all.
Fp8Route fp8_route(const Fp8Layout& layout);
// What keeps cuBLASLt from the product, "K = 100 is no multiple of 16"; empty when nothing does.
std::string fp8_fault(const Fp8Layout& layout);

constexpr bool is_fp8(DType dtype) { return dtype == DType::E4M3 || dtype == DType::E5M2; }
// Of two specs whose payloads are fp8 and that have a Real product.
Fp8Layout fp8_layout(const QuantSpec& a, const QuantSpec& b, const ProductExtents& extents);

}  // namespace nibble
