#include "quant/cpu/tile_params.h"

#include <algorithm>

namespace nibble::cpu {
namespace {
// Tiles narrower than this are expanded to one entry a column.
constexpr std::int64_t kNarrow = 16;
}  // namespace

TileParams::TileParams(const QuantSpec& spec, std::int64_t rows, std::int64_t cols,
                       const Tensor& steps, const Tensor& zeros)
    : spec_(spec),
      tile_(spec.resolve(rows, cols)),
      cols_(cols),
      tile_cols_(steps.size(1)),
      steps_(steps.data<float>()),
      zeros_(zeros.defined() ? zeros.data<float>() : nullptr),
      expanded_(tile_.cols < kNarrow) {
  const auto n = static_cast<std::size_t>(expanded_ ? cols : tile_cols_);
  factor_.resize(n);
  step_.resize(n);
  zero_.resize(n);
}

void TileParams::select(std::int64_t row) {
  const std::int64_t tile_row = row / tile_.rows;
  if (tile_row == loaded_) return;
  loaded_ = tile_row;
  const bool divides = spec_.scaling == Scaling::Divide;
  for (std::int64_t t = 0; t < tile_cols_; ++t) {
    const float step = steps_[tile_row * tile_cols_ + t];
    const float factor = divides ? codec::divisor_of(step) : codec::multiplier_of(step);
    const float zero = zeros_ ? zeros_[tile_row * tile_cols_ + t] : 0.0f;
    const std::int64_t begin = expanded_ ? t * tile_.cols : t;
    const std::int64_t end = expanded_ ? std::min(begin + tile_.cols, cols_) : t + 1;
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
      factor_[i] = factor;
      step_[i] = step;
      zero_[i] = zero;
    }
  }
}

// Calls fn(offset, length, tile) for the tiles that cover columns [col, col + n).
template <class F>
void TileParams::for_tiles(std::int64_t col, std::int64_t n, F&& fn) const {
  for (std::int64_t j = 0; j < n;) {
    const std::int64_t t = (col + j) / tile_.cols;
    const std::int64_t length = std::min((t + 1) * tile_.cols - (col + j), n - j);
    fn(j, length, static_cast<std::size_t>(t));
    j += length;
  }
}

// Calls fn(j, factor, step, zero) for each column; the loops hold no decisions.
template <class F>
void TileParams::map(std::int64_t col, std::int64_t n, F&& fn) const {
  if (expanded_) {
    const float* f = factor_.data() + col;
    const float* s = step_.data() + col;
    const float* z = zero_.data() + col;
    for (std::int64_t j = 0; j < n; ++j) fn(j, f[j], s[j], z[j]);
    return;
  }
  for_tiles(col, n, [&](std::int64_t begin, std::int64_t length, std::size_t t) {
    const float f = factor_[t], s = step_[t], z = zero_[t];
    for (std::int64_t j = begin; j < begin + length; ++j) fn(j, f, s, z);
  });
}

void TileParams::divide(const float* x, std::int64_t col, std::int64_t n, float* y) const {
  if (spec_.arithmetic == Arithmetic::BF16)
    map(col, n,
        [&](std::int64_t j, float f, float, float z) { y[j] = codec::divide_bf16(x[j], f, z); });
  else if (spec_.scaling == Scaling::Reciprocal && zeros_)
    map(col, n,
        [&](std::int64_t j, float f, float, float z) { y[j] = codec::multiply(x[j], f, z); });
  else if (spec_.scaling == Scaling::Reciprocal)
    map(col, n, [&](std::int64_t j, float f, float, float) { y[j] = x[j] * f; });
  else if (zeros_)
    map(col, n, [&](std::int64_t j, float f, float, float z) { y[j] = codec::divide(x[j], f, z); });
  else
    map(col, n, [&](std::int64_t j, float f, float, float) { y[j] = x[j] / f; });
}

void TileParams::rescale(const float* q, std::int64_t col, std::int64_t n, float* y) const {
  if (spec_.arithmetic == Arithmetic::BF16)
    map(col, n,
        [&](std::int64_t j, float, float s, float z) { y[j] = codec::rescale_bf16(q[j], z, s); });
  else if (zeros_)
    map(col, n,
        [&](std::int64_t j, float, float s, float z) { y[j] = codec::rescale(q[j], z, s); });
  else
    map(col, n, [&](std::int64_t j, float, float s, float) { y[j] = q[j] * s; });
}

}  // namespace nibble::cpu
