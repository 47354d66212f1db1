// Specs whose scales one pass over the matrix finds, encodes and keeps: each scale belongs to a run
// of elements that a few threads hold in registers.
#pragma once

#include "quant/spec.h"

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

}  // namespace nibble
