#include "autograd/telemetry.h"

#include <cmath>
#include <limits>

namespace nibble {
namespace {

// The largest magnitude that decodes from each tile's codes: beyond it values clip. `used`: the
// scales that encoded x, those of x's own range when undefined.
std::vector<float> largest_by_tile(const Tensor& x, const QuantSpec& spec, const Tensor& used) {
  QuantSpec nearest = spec;
  nearest.rounding = Rounding::Nearest;
  std::vector<float> largest =
      (used.defined() ? used : quantize(x, nearest).scales_f32()).to_vector();
  for (float& s : largest) s *= spec.format.max_value();
  return largest;
}

}  // namespace

void Telemetry::record(const std::string& module, const std::string& role, const Tensor& x,
                       const Tensor& decoded, const QuantSpec& spec, const Tensor& scales) {
  const Tensor matrix = x.flatten_rows();
  const std::int64_t rows = matrix.size(0), cols = matrix.size(1);
  const std::vector<float> a = matrix.to_vector(), b = decoded.to_vector();
  const Tile tile = spec.resolve(rows, cols);
  const std::int64_t tiles_across = (cols + tile.cols - 1) / tile.cols;
  // An asymmetric range has no single largest magnitude; absmax ranges cannot clip.
  const bool may_clip = spec.symmetric && !(spec.calibration == Calibration{});
  const std::vector<float> largest =
      may_clip ? largest_by_tile(matrix, spec, scales) : std::vector<float>{};
  Sums& s = sums_[{module, role}];
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    const double value = a[static_cast<std::size_t>(i)],
                 error = value - b[static_cast<std::size_t>(i)];
    s.signal += value * value;
    s.noise += error * error;
    s.absmax = std::max(s.absmax, std::abs(value));
    if (value != 0) {
      ++s.nonzero;
      s.flushed += b[static_cast<std::size_t>(i)] == 0;
    }
    if (may_clip) {
      const std::int64_t t = i / cols / tile.rows * tiles_across + i % cols / tile.cols;
      s.clipped +=
          std::abs(value) > static_cast<double>(largest[static_cast<std::size_t>(t)]) * (1 + 1e-6);
    }
  }
  s.count += rows * cols;
}

std::map<std::pair<std::string, std::string>, QuantStats> Telemetry::stats() const {
  std::map<std::pair<std::string, std::string>, QuantStats> out;
  for (const auto& [key, s] : sums_) {
    QuantStats& q = out[key];
    q.count = s.count;
    q.absmax = s.absmax;
    q.clipped = s.count ? static_cast<double>(s.clipped) / static_cast<double>(s.count) : 0;
    q.flushed = s.nonzero ? static_cast<double>(s.flushed) / static_cast<double>(s.nonzero) : 0;
    q.sqnr_db =
        s.noise > 0 ? 10 * std::log10(s.signal / s.noise) : std::numeric_limits<double>::infinity();
  }
  return out;
}

}  // namespace nibble
