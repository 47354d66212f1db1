#include "quant/scales.h"

#include "quant/kernels.h"

namespace nibble {

DType scale_dtype(ScaleType scale) {
  switch (scale) {
    case ScaleType::BF16: return DType::BF16;
    case ScaleType::E8M0: return DType::U8;
    case ScaleType::TwoLevel: return DType::E4M3;
    case ScaleType::F32:
    case ScaleType::PowerOfTwo: break;
  }
  return DType::F32;
}

Scales Scales::empty(const QuantSpec& spec, std::int64_t rows, std::int64_t cols, Device device) {
  Scales s = unwritten(spec, rows, cols, device);
  for (Tensor* part : {&s.stored, &s.zeros, &s.global})
    if (part->defined()) part->fill(0);
  return s;
}

Scales Scales::unwritten(const QuantSpec& spec, std::int64_t rows, std::int64_t cols,
                         Device device) {
  const Shape tiles = spec.scale_shape(rows, cols);
  Scales s;
  s.stored = Tensor::empty(tiles, scale_dtype(spec.scale), device);
  if (!spec.symmetric) s.zeros = Tensor::empty(tiles, DType::F32, device);
  if (spec.scale == ScaleType::TwoLevel) s.global = Tensor::empty({1}, DType::F32, device);
  return s;
}

void Scales::compute(const Tensor& x, const QuantSpec& spec) {
  Tensor ranges = Tensor::empty(stored.shape(), DType::F32, x.device());
  Tensor minima;
  if (!spec.symmetric) minima = Tensor::empty(stored.shape(), DType::F32, x.device());
  NIBBLE_DISPATCH(x.device(), quant_ranges(ranges, minima, x, spec));
  NIBBLE_DISPATCH(x.device(), quant_scales(stored, zeros, global, ranges, minima, spec));
}

Tensor Scales::steps(const QuantSpec& spec) const {
  if (stored.dtype() == DType::F32) return stored;
  Tensor y = Tensor::empty(stored.shape(), DType::F32, stored.device());
  if (y.numel() > 0) NIBBLE_DISPATCH(stored.device(), quant_steps(y, stored, global, spec));
  return y;
}

}  // namespace nibble
