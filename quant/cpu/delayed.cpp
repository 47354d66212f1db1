// Delayed scaling: the definition.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>

#include "quant/cpu/rows.h"
#include "quant/kernels.h"
#include "quant/scale_math.h"

namespace nibble::cpu {
namespace {

std::uint32_t magnitude(float x) { return std::bit_cast<std::uint32_t>(x) & 0x7fffffffu; }
void grow(float& most, std::uint32_t bits) {
  most = std::bit_cast<float>(std::max(magnitude(most), bits));
}

}  // namespace

void quant_delayed_range(Tensor& range, const Tensor& history, const QuantSpec& spec) {
  float most = 0;
  for (std::int64_t i = 0; i < history.numel(); ++i)
    grow(most, magnitude(history.data<float>()[i]));
  range.data<float>()[0] = codec::RangeRule(spec).of_history(most, spec.format.max_value());
}

void quant_encode_tracked(Tensor& codes, Tensor& largest, const Tensor& x, const Tensor& steps,
                          const QuantSpec& spec, const RngKey& key) {
  std::atomic<std::uint32_t> most{0};  // of integers, so in no order
  const RowReader reader(x);
  const std::int64_t cols = x.size(1);
  for_row_chunks(x.size(0), cols, [&](std::int64_t first, std::int64_t last) {
    alignas(64) float buffer[kPiece];
    std::uint32_t own = 0;
    for (std::int64_t row = first; row < last; ++row)
      for (std::int64_t col = 0; col < cols; col += kPiece) {
        const std::int64_t n = std::min(kPiece, cols - col);
        const float* const v = reader.read(row, col, n, buffer);
        for (std::int64_t j = 0; j < n; ++j) own = std::max(own, magnitude(v[j]));
      }
    std::uint32_t before = most.load();
    while (before < own && !most.compare_exchange_weak(before, own)) {
    }
  });
  grow(largest.data<float>()[0], most.load());
  quant_encode(codes, x, steps, {}, spec, key);
}

void quant_settle_range(Tensor& now, Tensor& scales, const Tensor& largest) {
  const float most = largest.data<float>()[0];
  grow(now.data<float>()[0], magnitude(most));
  if (!std::isfinite(most)) scales.data<float>()[0] = codec::one_nan(NAN);
}

void quant_advance_ranges(Tensor& history, Tensor& now, const StepScalars* step) {
  const std::int64_t tensors = history.size(0), steps = history.size(1);
  for (std::int64_t i = 0; i < tensors; ++i) {
    float& seen = now.data<float>()[i];
    if (!step->bad) history.data<float>()[i * steps + step->step % steps] = seen;
    seen = 0;
  }
}

}  // namespace nibble::cpu
