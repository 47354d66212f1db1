#include "autograd/wanted.h"

#include "quant/kernels.h"

namespace nibble {
namespace {

QTensor unwritten(const QuantSpec& spec, std::int64_t rows, std::int64_t cols, Device device) {
  return {Tensor::empty({rows, cols}, spec.payload(), device),
          Tensor::empty(spec.scale_shape(rows, cols), DType::F32, device),
          Tensor(),
          Tensor(),
          spec,
          {rows, cols}};
}

}  // namespace

std::optional<Encoded> encode_pair(PairSource& source, const Shape& shape, const Wanted& wanted) {
  using enum PairSource::Kind;
  if (source.x.numel() == 0 || !has_pair(source, wanted.by_row, wanted.by_column))
    return std::nullopt;
  const std::int64_t rows = source.x.size(0), cols = source.x.size(1);
  const Device device = source.x.device();
  if (source.kind == LayerNorm || source.kind == AddLayerNorm) {
    source.mean = Tensor::empty({rows}, DType::F32, device);
    source.rstd = Tensor::empty({rows}, DType::F32, device);
  }
  if (source.kind == AddLayerNorm)
    source.sum = Tensor::empty(source.x.shape(), source.x.dtype(), device);
  QTensor codes = unwritten(wanted.by_row, rows, cols, device);
  std::optional<QTensor> turned;
  Tensor turned_codes, turned_scales, value, sums;
  if (wanted.transpose) {
    turned = unwritten(wanted.by_column, cols, rows, device);
    turned_codes = turned->payload();
    turned_scales = turned->scales();
  }
  if (wanted.column_sums) sums = Tensor::empty({cols}, DType::F32, device);
  NIBBLE_DISPATCH(
      device, quant_pair(codes.payload(), codes.scales(), turned_codes, turned_scales, value, sums,
                         source, wanted.by_row, wanted.by_column, wanted.key));
  Encoded out(shape, source.x.dtype());
  out.add(std::move(codes));
  if (turned) out.add(std::move(*turned), true);
  out.set_column_sums(std::move(sums));
  return out;
}

}  // namespace nibble
