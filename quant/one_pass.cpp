#include "quant/one_pass.h"

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
  return rows != 0 && cols != 0 && cols % 8 == 0 && spec.tile == block(kSquareTile);
}

}  // namespace nibble
