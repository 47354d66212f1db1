#include "autograd/origin.h"

#include "autograd/context.h"
#include "autograd/operand.h"
#include "quant/pair_twin.h"
#include "quant/scales.h"
#include "quant/source_kernels.h"

namespace nibble {

PairSource Origin::to_make() const {
  PairSource s = source;
  s.x = x.get().flatten_rows();
  if (s.kind == PairSource::Kind::LayerNorm) {
    s.mean = Tensor::empty({s.x.size(0)}, DType::F32, s.x.device());
    s.rstd = Tensor::empty({s.x.size(0)}, DType::F32, s.x.device());
  }
  return s;
}

Tensor Origin::matrix() const { return pair_matrix(to_make(), Tensor()); }

std::optional<QTensor> Origin::transposed_codes(const QuantSpec& spec, const RngKey& key) const {
  PairSource s = source;
  s.x = x.get().flatten_rows();
  if (s.x.numel() == 0 || !has_source_columns(s, spec)) return std::nullopt;
  const Device device = s.x.device();
  QTensor q = unwritten(spec, s.x.size(1), s.x.size(0), device);
  NIBBLE_DISPATCH(device, quant_source_columns(q.payload(), q.scales(), s, spec, key));
  return q;
}

const Tensor& Saved::made_again() const { return remade_->get(); }

const Tensor& Remade::get() {
  if (value_.defined()) return value_;
  const NoGrad no_grad;
  ForwardContext context = forward_context();
  context.telemetry = nullptr;  // the first pass reported
  const ForwardScope forward(context);
  value_ = make_();
  return value_;
}

}  // namespace nibble
