// What the quantizer's tests share: a sample matrix, bit comparison, a table of specs.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "quant/qtensor.h"

namespace nibble::quant_checks {

inline constexpr std::int64_t kRows = 12, kCols = 42;
inline const RngKey kKey{17, 23};

// Bell-shaped with outlier columns, a zero row and mixed signs.
inline Tensor sample(std::int64_t rows = kRows, std::int64_t cols = kCols, std::uint32_t site = 5) {
  auto x = Tensor::normal({rows, cols}, 0, 1, RngKey{1, site}).to_vector<float>();
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    float& v = x[static_cast<std::size_t>(i)];
    if (i % cols % 7 == 3) v *= 20;
    if (i / cols == 4) v = 0;
  }
  return Tensor::from(x, {rows, cols});
}

inline std::vector<std::uint8_t> bytes_of(const Tensor& t) {
  if (!t.defined()) return {};
  REQUIRE(t.is_contiguous());
  const auto* p = reinterpret_cast<const std::uint8_t*>(t.raw());
  return {p, p + t.bytes()};
}
inline bool same(const QTensor& a, const QTensor& b) {
  return a.spec() == b.spec() && a.shape() == b.shape() &&
         bytes_of(a.payload()) == bytes_of(b.payload()) &&
         bytes_of(a.scales()) == bytes_of(b.scales()) &&
         bytes_of(a.zeros()) == bytes_of(b.zeros()) &&
         bytes_of(a.global_scale()) == bytes_of(b.global_scale());
}

// Every format, tile, scale type and option at least once with every tile.
inline std::vector<QuantSpec> specs() {
  std::vector<QuantSpec> all;
  for (const char* format : {"int8",
                             "int8:sr",
                             "int8:recip",
                             "int2",
                             "int5:sr:recip",
                             "uint8:asym",
                             "int8:asym:recip",
                             "int4:asym:sr:floor1e-05",
                             "uint4",
                             "e4m3",
                             "e5m2:sr",
                             "e2m1:recip",
                             "e3m2",
                             "dyn8",
                             "dynu8:sr",
                             "lin4u",
                             "int4:packed",
                             "uint3:packed:asym:sr",
                             "e2m1:packed",
                             "dyn4:packed:sr",
                             "int8:bf16",
                             "int8:pow2",
                             "e4m3:e8m0:sr",
                             "e2m1:twolevel",
                             "int6:twolevel:asym",
                             "int4:absmean2",
                             "int4:mse20",
                             "int8:const3",
                             "int8:absmax0.8",
                             "int8:relfloor0.25",
                             "int8:floor0.01:bf16math",
                             "uint8:asym:bf16math"})
    for (const char* tile : {"tensor", "row", "col", "group5", "group16", "block4", "block64",
                             "tensor:split3", "row:split3:rowsplit2", "tile4x7:split2:rowsplit3"})
      all.push_back(parse_spec(std::string(format) + ":" + tile));
  return all;
}

}  // namespace nibble::quant_checks
