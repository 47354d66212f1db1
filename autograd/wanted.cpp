#include "autograd/operand.h"

#include "quant/attention_codes.h"
#include "quant/scales.h"
#include "quant/source_kernels.h"

namespace nibble {
namespace {

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
  return !wanted.bias && has_norm_rows(source, wanted.by_row) &&
         (!wanted.transpose || has_source_columns(known_norm(source), wanted.by_column));
}

// What a kernel that makes a matrix [rows, cols] writes besides; undefined where it is not wanted.
struct Codes {
  QTensor by_row;
  std::optional<QTensor> by_column;
  Tensor column_codes, column_scales, sums;
  Parameter* summed = nullptr;  // whose gradient `sums` is

  Codes(const Wanted& wanted, std::int64_t rows, std::int64_t cols, Device device)
      : by_row(unwritten(wanted.by_row, rows, cols, device)) {
    if (wanted.transpose) {
      by_column = unwritten(wanted.by_column, cols, rows, device);
      column_codes = by_column->payload();
      column_scales = by_column->scales();
    }
    if (wanted.bias) make_sums(*wanted.bias, cols, device);
  }
  Encoded of(const Shape& shape, DType dtype) && {
    Encoded out(shape, dtype);
    out.add(std::move(by_row));
    if (by_column) out.add(std::move(*by_column), true);
    if (summed)
      summed->set_has_grad(true);
    else
      out.set_column_sums(std::move(sums));
    return out;
  }

 private:
  void make_sums(Parameter& bias, std::int64_t cols, Device device) {
    if (!bias.has_grad() && bias.grad_buffer().dtype() == DType::F32 &&
        bias.grad_buffer().is_contiguous()) {
      summed = &bias;
      sums = bias.grad_buffer();
    } else {
      sums = Tensor::empty({cols}, DType::F32, device);
    }
  }
};

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
  Codes codes(wanted, rows, cols, device);
  if (is_norm(source)) {
    NIBBLE_DISPATCH(device, quant_norm_rows(codes.by_row.payload(), codes.by_row.scales(), source,
                                            wanted.by_row));
    if (codes.by_column)
      NIBBLE_DISPATCH(
          device, quant_source_columns(codes.column_codes, codes.column_scales, known_norm(source),
                                       wanted.by_column, wanted.key));
  } else {
    Tensor value;
    NIBBLE_DISPATCH(device, quant_pair(codes.by_row.payload(), codes.by_row.scales(),
                                       codes.column_codes, codes.column_scales, value, codes.sums,
                                       source, wanted.by_row, wanted.by_column, wanted.key));
  }
  return std::move(codes).of(shape, source.x.dtype());
}

std::optional<Encoded> encode_attention(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k,
                                        const Tensor& v, const AttentionOptions& options,
                                        const Wanted& wanted) {
  const Shape& s = q.shape();
  if (wanted.bias || !has_attention_codes({q, k, options}, wanted.by_row, wanted.by_column))
    return std::nullopt;
  const std::int64_t batch = s[0], tokens = s[1], cols = s[2] * s[3];
  out = Tensor::empty(s, q.dtype(), q.device());
  lse = Tensor::empty({batch, s[2], tokens}, DType::F32, q.device());
  Codes codes(wanted, batch * tokens, cols, q.device());
  NIBBLE_DISPATCH(
      q.device(),
      quant_attention(out, lse, codes.by_row.payload(), codes.by_row.scales(), codes.column_codes,
                      codes.column_scales, q, k, v, options, wanted.by_row, wanted.by_column));
  return std::move(codes).of({batch, tokens, cols}, q.dtype());
}

std::optional<EncodedLogits> encode_dlogits(Tensor& losses, const Tensor& logits,
                                            const Tensor& targets, const Tensor& scale,
                                            bool with_target, const Wanted& wanted) {
  if (!has_dlogits_pair(logits, wanted.by_row, wanted.by_column)) return std::nullopt;
  const std::int64_t rows = logits.size(0), cols = logits.size(1);
  const Device device = logits.device();
  EncodedLogits out{unwritten(wanted.by_row, rows, cols, device),
                    unwritten(wanted.by_column, cols, rows, device)};
  NIBBLE_DISPATCH(device,
                  quant_dlogits(out.by_row.payload(), out.by_row.scales(), out.by_column.payload(),
                                out.by_column.scales(), losses, logits, targets, scale, with_target,
                                wanted.by_row, wanted.by_column, wanted.key));
  return out;
}

}  // namespace nibble
