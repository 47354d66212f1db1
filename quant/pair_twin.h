// quant_pair as a composition of the kernels it replaces: the CPU half, and what defines the bits
// of the GPU's.
#pragma once

#include "quant/kernels.h"
#include "quant/scales.h"

namespace nibble {

// The matrix that `source` stands for: x, or what the producer's own kernel stores (in `value` when
// that is defined).
inline Tensor pair_matrix(const PairSource& s, const Tensor& value) {
  using enum PairSource::Kind;
  if (s.kind == Plain) return s.x;
  const Device device = s.x.device();
  Tensor y = value.defined() ? value : Tensor::empty(s.x.shape(), s.x.dtype(), device);
  Tensor mean = s.mean, rstd = s.rstd, sum = s.sum;
  switch (s.kind) {
    case Plain: break;
    case AddLayerNorm: NIBBLE_DISPATCH(device, add(sum, s.x, s.residual)); [[fallthrough]];
    case LayerNorm:
      NIBBLE_DISPATCH(device, layer_norm(y, mean, rstd, s.kind == LayerNorm ? s.x : sum, s.gamma,
                                         s.beta, s.epsilon));
      break;
    case Gelu: NIBBLE_DISPATCH(device, gelu_tanh(y, s.x)); break;
    case GeluBackward: NIBBLE_DISPATCH(device, gelu_tanh_backward(y, s.dy, s.x)); break;
  }
  return y;
}

// quant_pair's parameters, on the device of x.
inline void pair_twin(Tensor& row_codes, Tensor& row_scales, Tensor& column_codes,
                      Tensor& column_scales, Tensor& value, Tensor& column_sums,
                      const PairSource& source, const QuantSpec& by_row, const QuantSpec& by_column,
                      const RngKey& key) {
  const Tensor y = pair_matrix(source, value);
  const Device device = y.device();
  if (has_row_runs(by_row, y.size(0), y.size(1))) {
    NIBBLE_DISPATCH(device, quant_row_runs(row_codes, row_scales, y, by_row, key));
  } else {  // longer rows
    Scales{row_scales, {}, {}}.compute(y, by_row);
    NIBBLE_DISPATCH(device, quant_encode(row_codes, y, row_scales, {}, by_row, key));
  }
  if (column_codes.defined())
    NIBBLE_DISPATCH(device, quant_column_runs(column_codes, column_scales, y, by_column, key));
  if (column_sums.defined()) NIBBLE_DISPATCH(device, column_sum(column_sums, y, false));
}

// quant_dlogits's parameters: the losses, then both encodings of dlogits.
inline void dlogits_twin(Tensor& row_codes, Tensor& row_scales, Tensor& column_codes,
                         Tensor& column_scales, Tensor& losses, const Tensor& logits,
                         const Tensor& targets, const Tensor& scale, bool with_target,
                         const QuantSpec& by_row, const QuantSpec& by_column, const RngKey& key) {
  PairSource source;
  source.x = logits.clone();
  NIBBLE_DISPATCH(logits.device(), cross_entropy_gradient(losses, source.x, targets, scale));
  if (!with_target) NIBBLE_DISPATCH(logits.device(), zero_along_last(source.x, targets));
  Tensor no_value, no_sums;
  pair_twin(row_codes, row_scales, column_codes, column_scales, no_value, no_sums, source, by_row,
            by_column, key);
}

}  // namespace nibble
