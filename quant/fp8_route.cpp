#include "quant/fp8_route.h"

namespace nibble {
namespace {

constexpr std::int64_t kUnit = 16;  // bytes that operands' rows are made of, and columns of results
constexpr std::int64_t kRun = 128;  // codes under one of the library's scales along K

}  // namespace

std::string_view to_string(Fp8Route route) {
  switch (route) {
    case Fp8Route::TensorScales: return "cublaslt fp8, tensor scales";
    case Fp8Route::RowScales: return "cublaslt fp8, row scales";
    case Fp8Route::BlockScales: return "cublaslt fp8, scales of 128";
    case Fp8Route::Rescaled: return "cublaslt fp8+scale";
    case Fp8Route::Decoded: return "decoded to f32 + f32 product";
  }
  fail("fp8 route", "no such route: got {}", static_cast<int>(route));
}

std::string fp8_fault(const Fp8Layout& x) {
  if (x.a == DType::E5M2 && x.b == DType::E5M2) return "no fp8 kernel multiplies e5m2 by e5m2";
  if (x.k % kUnit != 0) return fmt::format("K = {} is no multiple of {}", x.k, kUnit);
  if (x.n % kUnit != 0) return fmt::format("N = {} is no multiple of {}", x.n, kUnit);
  if (x.block < x.k && x.block % kUnit != 0)
    return fmt::format("blocks of {} are no multiple of {}", x.block, kUnit);
  return x.k == 0 ? "there is nothing to multiply" : "";
}

Fp8Route fp8_route(const Fp8Layout& x) {
  if (!fp8_fault(x).empty()) return Fp8Route::Decoded;
  if (x.block < x.k) {
    const auto square = [](std::int64_t tile_rows) { return tile_rows == kRun; };
    const bool tiles = (x.a_tile_rows == 1 || square(x.a_tile_rows)) &&
                       (x.b_tile_rows == 1 || square(x.b_tile_rows)) &&
                       !(square(x.a_tile_rows) && square(x.b_tile_rows));
    // Its scales of runs lie in rows of m and n, which must be whole vectors.
    const bool whole = x.block == kRun && x.k % kRun == 0 && x.m % 4 == 0;
    return tiles && whole ? Fp8Route::BlockScales : Fp8Route::Rescaled;
  }
  const bool whole_a = x.a_tile_rows >= x.m, whole_b = x.b_tile_rows >= x.n;
  if (whole_a && whole_b) return Fp8Route::TensorScales;
  const bool rows = (whole_a || x.a_tile_rows == 1) && (whole_b || x.b_tile_rows == 1);
  return rows ? Fp8Route::RowScales : Fp8Route::Rescaled;
}

Fp8Layout fp8_layout(const QuantSpec& a, const QuantSpec& b, const ProductExtents& x) {
  return {x.m,
          x.n,
          x.k,
          contraction_block(a, b, x.k),
          a.payload(),
          b.payload(),
          a.resolve(x.m, x.k).rows,
          b.resolve(x.n, x.k).rows};
}

}  // namespace nibble
