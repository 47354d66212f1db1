#include "autograd/operand.h"

#include "quant/source_kernels.h"

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

bool is_norm(const PairSource& source) {
  using enum PairSource::Kind;
  return source.kind == LayerNorm || source.kind == AddLayerNorm;
}

// A norm whose statistics are known, of what it is a norm of.
PairSource known_norm(const PairSource& source) {
  PairSource s = source;
  s.kind = PairSource::Kind::LayerNorm;
  if (source.sum.defined()) s.x = source.sum;
  return s;
}

bool serves(const PairSource& source, const Wanted& wanted) {
  if (!is_norm(source)) return has_pair(source, wanted.by_row, wanted.by_column);
  return !wanted.column_sums && has_norm_rows(source, wanted.by_row) &&
         (!wanted.transpose || has_source_columns(known_norm(source), wanted.by_column));
}

}  // namespace

std::optional<Encoded> encode_pair(PairSource& source, const Shape& shape, const Wanted& wanted) {
  using enum PairSource::Kind;
  if (source.x.numel() == 0 || !serves(source, wanted)) return std::nullopt;
  const std::int64_t rows = source.x.size(0), cols = source.x.size(1);
  const Device device = source.x.device();
  if (is_norm(source)) {
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
  if (is_norm(source)) {
    NIBBLE_DISPATCH(device,
                    quant_norm_rows(codes.payload(), codes.scales(), source, wanted.by_row));
    if (turned)
      NIBBLE_DISPATCH(device, quant_source_columns(turned_codes, turned_scales, known_norm(source),
                                                   wanted.by_column, wanted.key));
  } else {
    NIBBLE_DISPATCH(device,
                    quant_pair(codes.payload(), codes.scales(), turned_codes, turned_scales, value,
                               sums, source, wanted.by_row, wanted.by_column, wanted.key));
  }
  Encoded out(shape, source.x.dtype());
  out.add(std::move(codes));
  if (turned) out.add(std::move(*turned), true);
  out.set_column_sums(std::move(sums));
  return out;
}

std::optional<EncodedLogits> encode_dlogits(const Tensor& logits, const Tensor& targets,
                                            const Tensor& scale, const Wanted& wanted) {
  if (!has_dlogits_pair(logits, wanted.by_row, wanted.by_column)) return std::nullopt;
  const std::int64_t rows = logits.size(0), cols = logits.size(1);
  const Device device = logits.device();
  EncodedLogits out{Tensor::empty({rows}, DType::F32, device),
                    unwritten(wanted.by_row, rows, cols, device),
                    unwritten(wanted.by_column, cols, rows, device)};
  NIBBLE_DISPATCH(device,
                  quant_dlogits(out.by_row.payload(), out.by_row.scales(), out.by_column.payload(),
                                out.by_column.scales(), out.losses, logits, targets, scale,
                                wanted.by_row, wanted.by_column, wanted.key));
  return out;
}

}  // namespace nibble
