// The CPU halves of the one-pass kernels say what these equal: ranges, scales and codes apart.
#include "quant/attention_codes.h"
#include "quant/pair_twin.h"
#include "quant/scales.h"

namespace nibble::cpu {

void quant_row_runs(Tensor& codes, Tensor& scales, const Tensor& x, const QuantSpec& spec,
                    const RngKey& key) {
  Scales{scales, {}, {}}.compute(x, spec);
  quant_encode(codes, x, scales, {}, spec, key);
}

void quant_square_tiles(Tensor& codes, Tensor& scales, const Tensor& x, const QuantSpec& spec,
                        const RngKey& key) {
  quant_row_runs(codes, scales, x, spec, key);
}

void quant_round_row_runs(Tensor& y, const Tensor& x, const QuantSpec& spec, const RngKey& key) {
  Scales scales = Scales::empty(spec, x.size(0), x.size(1), x.device());
  scales.compute(x, spec);
  quant_roundtrip(y, x, scales.stored, {}, spec, key);
}

void quant_column_runs(Tensor& codes, Tensor& scales, const Tensor& x, const QuantSpec& spec,
                       const RngKey& key) {
  const QuantSpec own = spec.t();
  Scales found = Scales::empty(own, x.size(0), x.size(1), x.device());
  found.compute(x, own);
  Tensor straight = Tensor::empty(x.shape(), codes.dtype(), x.device());
  quant_encode(straight, x, found.stored, {}, own, key);
  quant_transpose(codes, straight);
  scales.copy_from(found.stored.t());
}

void quant_pair(Tensor& row_codes, Tensor& row_scales, Tensor& column_codes, Tensor& column_scales,
                Tensor& value, Tensor& column_sums, const PairSource& source,
                const QuantSpec& by_row, const QuantSpec& by_column, const RngKey& key) {
  pair_twin(row_codes, row_scales, column_codes, column_scales, value, column_sums, source, by_row,
            by_column, key);
}

void quant_dlogits(Tensor& row_codes, Tensor& row_scales, Tensor& column_codes,
                   Tensor& column_scales, Tensor& losses, const Tensor& logits,
                   const Tensor& targets, const Tensor& scale, bool with_target,
                   const QuantSpec& by_row, const QuantSpec& by_column, const RngKey& key) {
  dlogits_twin(row_codes, row_scales, column_codes, column_scales, losses, logits, targets, scale,
               with_target, by_row, by_column, key);
}

void quant_attention(Tensor& out, Tensor& lse, Tensor& row_codes, Tensor& row_scales,
                     Tensor& column_codes, Tensor& column_scales, const Tensor& q, const Tensor& k,
                     const Tensor& v, const AttentionOptions& options, const QuantSpec& by_row,
                     const QuantSpec& by_column) {
  attention(out, lse, q, k, v, options);
  PairSource source;
  source.x = out.view({out.size(0) * out.size(1), out.size(2) * out.size(3)});
  Tensor none;
  pair_twin(row_codes, row_scales, column_codes, column_scales, none, none, source, by_row,
            by_column, {});
}

}  // namespace nibble::cpu
