#include "quant/one_pass.h"

#include "quant/attention_codes.h"
#include "quant/source_kernels.h"

namespace nibble {
namespace {

// What the kernels compute: codes of a byte, largest magnitudes, f32 steps whose floor needs no
// other tile.
bool is_plain(const QuantSpec& s) {
  return !s.packed && s.symmetric && s.scale == ScaleType::F32 && s.arithmetic == Arithmetic::F32 &&
         s.calibration.kind == Calibration::Kind::AbsMax && !s.floor.relative;
}

bool is_float8(const QuantSpec& s) {
  return (s.format == Format::floating(4, 3) || s.format == Format::floating(5, 2)) &&
         s.scaling == Scaling::Divide && s.rounding == Rounding::Nearest;
}

}  // namespace

bool has_row_runs(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
  if (!is_plain(spec) || rows == 0 || cols == 0 || cols % 8 != 0) return false;
  if (!spec.format.is_integer() && !is_float8(spec)) return false;
  const Tile tile = spec.resolve(rows, cols);
  if (tile.rows != 1 || cols % tile.cols != 0 || tile.cols % 8 != 0 || tile.cols > 4096)
    return false;
  // Shorter runs are shared by a power of two of threads, eight elements each.
  return tile.cols >= 256 || (tile.cols & (tile.cols - 1)) == 0;
}

bool has_column_runs(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
  if (!is_plain(spec) || !spec.format.is_integer()) return false;
  if (rows == 0 || cols == 0 || cols % 8 != 0 || rows % 16 != 0) return false;
  const Tile tile = spec.resolve(cols, rows);
  return tile.rows == 1 && (tile.cols == 128 || tile.cols == 256);
}

bool has_square_tiles(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
  if (!is_plain(spec) || !spec.format.is_integer()) return false;
  // Parts of a split may be smaller than the tile, which then is theirs.
  const bool whole = spec.row_splits == 1 && spec.col_splits == 1;
  return whole && rows != 0 && cols != 0 && cols % 8 == 0 && spec.tile == block(kSquareTile);
}

namespace {

bool is_vectorized(const Tensor& x) {
  return !x.defined() || x.device() == kMeta || reinterpret_cast<std::uintptr_t>(x.raw()) % 16 == 0;
}
// A matrix that kernels read in vectors, and what it is made with.
bool is_vectorized(const PairSource& source) {
  const Tensor& x = source.x;
  if (x.rank() != 2 || !x.is_contiguous()) return false;
  if (x.dtype() != DType::F32 && x.dtype() != DType::BF16) return false;
  for (const Tensor* t : {&x, &source.gamma, &source.beta, &source.residual, &source.dy})
    if (!is_vectorized(*t)) return false;
  return true;
}
// Integers whose quotients need no lower bound: |x / step| is at most the largest code.
bool has_pair_codes(const QuantSpec& s) {
  return is_plain(s) && s.format.is_signed() && s.scaling == Scaling::Reciprocal &&
         s.calibration.value >= 1;
}

}  // namespace

bool has_pair(const PairSource& source, const QuantSpec& by_row, const QuantSpec& by_column) {
  using enum PairSource::Kind;
  const Tensor& x = source.x;
  if (!is_vectorized(source)) return false;
  if (source.kind == LayerNorm || source.kind == AddLayerNorm) return false;
  const std::int64_t rows = x.size(0), cols = x.size(1);
  if (!has_pair_codes(by_row) || by_row.rounding != by_column.rounding) return false;
  if (!has_pair_codes(by_column) || !has_column_runs(by_column, rows, cols)) return false;
  const Tile tile = by_row.resolve(rows, cols);
  if (tile.rows != 1 || (tile.cols != cols && tile.cols != 128)) return false;
  if (cols % tile.cols != 0) return false;
  // Gradients are rounded with noise, activations are not.
  if (by_row.rounding == Rounding::Stochastic && source.kind != Plain &&
      source.kind != GeluBackward)
    return false;
  return rows <= (std::int64_t{1} << 35) / cols;  // blocks of draws are counted in 32 bits
}

bool has_norm_rows(const PairSource& source, const QuantSpec& spec) {
  using enum PairSource::Kind;
  if (source.kind != LayerNorm && source.kind != AddLayerNorm) return false;
  if (!is_vectorized(source) || !is_plain(spec) || !spec.format.is_integer()) return false;
  if (spec.rounding != Rounding::Nearest || spec.scaling != Scaling::Reciprocal) return false;
  const std::int64_t rows = source.x.size(0), cols = source.x.size(1);
  if (rows == 0 || cols == 0 || cols % 8 != 0 || cols > 4096) return false;
  const Tile tile = spec.resolve(rows, cols);
  return tile.rows == 1 && (tile.cols == cols || (tile.cols == 128 && cols % 128 == 0));
}

bool has_source_columns(const PairSource& source, const QuantSpec& spec) {
  using enum PairSource::Kind;
  if (!is_vectorized(source)) return false;
  if (!has_column_runs(spec, source.x.size(0), source.x.size(1))) return false;
  if (source.kind == Plain) return true;
  const bool made = source.kind == LayerNorm || source.kind == Gelu;
  return made && spec.rounding == Rounding::Nearest && spec.scaling == Scaling::Reciprocal;
}

bool has_dlogits_pair(const Tensor& logits, const QuantSpec& by_row, const QuantSpec& by_column) {
  if (logits.dtype() != DType::BF16 || logits.rank() != 2 || !logits.is_contiguous()) return false;
  const std::int64_t rows = logits.size(0), cols = logits.size(1);
  if (!is_vectorized(logits) || !has_column_runs(by_column, rows, cols)) return false;
  if (!has_pair_codes(by_row) || !has_pair_codes(by_column)) return false;
  const Tile tile = by_row.resolve(rows, cols);
  if (by_row.rounding != by_column.rounding || tile.rows != 1 || tile.cols != cols) return false;
  return rows <= (std::int64_t{1} << 35) / cols;  // as above
}

bool has_attention_codes(const AttentionProblem& p, const QuantSpec& by_row,
                         const QuantSpec& by_column) {
  const std::int64_t rows = p.batch * p.queries, cols = p.heads * p.width;
  if (p.dtype != DType::BF16 || p.width != 64 || rows * cols == 0 || p.keys == 0) return false;
  if (p.dropout == 0 && !is_own_attention_faster(p, AttentionPass::Forward)) return false;
  for (const QuantSpec* s : {&by_row, &by_column})
    if (!has_pair_codes(*s) || s->rounding != Rounding::Nearest) return false;
  const Tile along = by_row.resolve(rows, cols), down = by_column.resolve(cols, rows);
  const bool grouped = along.rows == 1 && along.cols == 128 && down.rows == 1 && down.cols == 128;
  return grouped && cols % 128 == 0 && p.queries % 128 == 0;
}

}  // namespace nibble
