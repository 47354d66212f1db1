// Matrices that quantizers find hard, and the pairs of kernels on buffers with sentinels around.
#pragma once

#include <cmath>
#include <functional>
#include <utility>
#include <vector>

#include "quant/kernels.h"
#include "quant/scales.h"
#include "tests/cuda/number_checks.h"
#include "tests/quant_checks.h"

namespace nibble::testing {

enum class Numbers {
  Bell,     // with outlier columns and a zero row
  Heavy,    // cubes of bell-shaped numbers, rows of very different size
  Ties,     // small multiples of 1/2 next to exact powers of two: most quotients are ties
  Special,  // every kind of float, in some tiles only
};
inline constexpr Numbers kNumbers[] = {Numbers::Bell, Numbers::Heavy, Numbers::Ties,
                                       Numbers::Special};

inline Tensor numbers(Numbers kind, std::int64_t rows, std::int64_t cols, DType dtype) {
  Tensor x = quant_checks::sample(rows, cols);
  auto* v = x.data<float>();
  const auto row_of = [cols](std::int64_t i) { return static_cast<int>(i / cols); };
  switch (kind) {
    case Numbers::Bell: break;
    case Numbers::Heavy:
      for (std::int64_t i = 0; i < x.numel(); ++i)
        v[i] = std::ldexp(v[i] * v[i] * v[i], row_of(i) % 61 - 30);
      break;
    case Numbers::Ties:
      for (std::int64_t i = 0; i < x.numel(); ++i)
        v[i] = std::ldexp(std::rint(8 * v[i]) / 2, row_of(i) % 5 - 2);
      break;
    case Numbers::Special: {
      const Tensor any = any_floats({rows, cols});
      for (std::int64_t i = 0; i < x.numel(); ++i) {
        if (row_of(i) % 7 == 2) v[i] = std::ldexp(v[i], -140);     // subnormal
        if (row_of(i) % 7 == 5) v[i] = i % 2 == 0 ? -0.0f : 0.0f;  // zero tiles
        if (i % 41 == 7) v[i] = any.data<float>()[i];              // some rows and groups
      }
      break;
    }
  }
  return x.to(dtype);
}

// A tensor of `shape` inside a buffer of sentinels, `offset` elements from an aligned address.
struct Framed {
  Tensor buffer, inner;
};
inline Framed framed(const Shape& shape, DType dtype, Device device, std::int64_t offset) {
  constexpr std::int64_t kMargin = 64;
  const std::int64_t n = shape.numel();
  Tensor buffer = Tensor::full({n + 2 * kMargin + offset}, 77, dtype, device);
  Tensor inner = buffer.slice(0, kMargin + offset, kMargin + offset + n).view(shape);
  return {buffer, inner};
}
// The same numbers at such a place.
inline Tensor displaced(const Tensor& x, std::int64_t offset) {
  Framed f = framed(x.shape(), x.dtype(), x.device(), offset);
  f.inner.copy_from(x);
  return f.inner;
}

// Whether the splits of a spec divide the matrix.
inline bool fits(const QuantSpec& s, std::int64_t rows, std::int64_t cols) {
  const auto divides = [](std::int64_t tile, std::int64_t n, int splits) {
    const std::int64_t part = n / splits;
    return splits == 1 || (n % splits == 0 && (tile == 0 || tile >= part || part % tile == 0));
  };
  return divides(s.tile.rows, rows, s.row_splits) && divides(s.tile.cols, cols, s.col_splits);
}

}  // namespace nibble::testing
