// Specs whose scales one pass over the matrix finds, encodes and keeps: each scale belongs to a run
// of elements that a few threads hold in registers.
#pragma once

#include "quant/spec.h"
#include "tensor/tensor.h"

namespace nibble {

// Runs along rows: x [rows, cols] in tiles of one row and up to 4096 columns, whole runs. Integers,
// and nearest e4m3 and e5m2.
bool has_row_runs(const QuantSpec& spec, std::int64_t rows, std::int64_t cols);
// Runs along columns, integers for codes of xᵀ: `spec` is stated for xᵀ [cols, rows], in groups of
// 128 or 256 of x's rows, the last one shorter.
bool has_column_runs(const QuantSpec& spec, std::int64_t rows, std::int64_t cols);
// Integers in square tiles of 128, those at the edges smaller.
inline constexpr std::int64_t kSquareTile = 128;
bool has_square_tiles(const QuantSpec& spec, std::int64_t rows, std::int64_t cols);

// What a matrix [rows, cols] of F32 or BF16 that is encoded along rows and along columns at once
// (quant_pair) is made of: x itself, or what a producer makes of it, rounded to x's dtype as the
// producer's own kernel stores it.
struct PairSource {
  enum class Kind : std::uint8_t {
    Plain,         // x
    LayerNorm,     // layer_norm(x, gamma, beta, epsilon), which also writes mean and rstd
    AddLayerNorm,  // the same of sum = x + residual, which it writes
    Gelu,          // gelu_tanh(x)
    GeluBackward,  // gelu_tanh_backward(dy, x)
  };
  Kind kind = Kind::Plain;
  Tensor x;            // [rows, cols]
  Tensor gamma, beta;  // [cols] of x's dtype; beta may be undefined
  double epsilon = 0;
  Tensor mean, rstd;     // out, F32 [rows]
  Tensor residual, sum;  // [rows, cols] of x's dtype; sum: out
  Tensor dy;             // [rows, cols] of x's dtype
};
// Whether quant_pair serves: no layer norms (source_kernels.h); signed integers, reciprocal steps
// and one rounding in both (noise for Plain and GeluBackward only); one scale a row or 128 columns
// of it; groups of 128 or 256 rows in columns (`by_column`, for the transpose). Multiples of 16
// rows and 8 columns, inputs at multiples of 16 bytes, at most 2^35 elements. The same on every
// device.
bool has_pair(const PairSource& source, const QuantSpec& by_row, const QuantSpec& by_column);

// Whether quant_dlogits serves these logits: BF16, has_pair's specs with one scale a row, which may
// be of any length. The same on every device.
bool has_dlogits_pair(const Tensor& logits, const QuantSpec& by_row, const QuantSpec& by_column);

}  // namespace nibble
