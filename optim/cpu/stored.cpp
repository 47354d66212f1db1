#include "optim/kernels.h"
#include "quant/qtensor.h"

namespace nibble::cpu {
namespace {

QTensor codes_of(const StoredState& s, const Shape& shape) {
  return QTensor(s.values, s.scales, {}, {}, *s.spec, shape);
}
// The state itself where it is f32.
Tensor decoded(const StoredState& s, const Shape& shape) {
  if (s.spec) return dequantize(codes_of(s, shape));
  return s.values.dtype() == DType::F32 ? s.values : s.values.to(DType::F32);
}
void encode(StoredState& s, const Tensor& x, const RngKey& draws) {
  if (s.spec) {
    QTensor q = codes_of(s, x.shape());
    quantize_into(q, x, {draws.seed, s.site, draws.step});
  } else if (s.values.dtype() != DType::F32) {
    s.values.copy_from(x);
  }
}

}  // namespace

void adam_stored(std::vector<StoredUpdate>& all, const AdamRule& rule, const StepScalars* step,
                 const Tensor& corrections, const RngKey& draws) {
  if (step->bad) return;
  for (StoredUpdate& u : all) {
    const RngKey key{draws.seed, u.weight_site, draws.step};
    std::optional<QTensor> codes;
    if (u.weight_spec)
      codes.emplace(u.weight, u.weight_scales, Tensor(), Tensor(), *u.weight_spec,
                    u.weight.shape());
    const bool in_place = u.weight.dtype() == DType::F32;
    Tensor w = codes ? dequantize(*codes) : in_place ? u.weight : u.weight.to(DType::F32);
    Tensor m = decoded(u.states[0], w.shape()), v = decoded(u.states[1], w.shape());
    StepScalars own = *step;
    if (u.clip.defined()) own.clip = *u.clip.data<float>();
    adam(w, m, v, u.gradient, rule, u.group, &own, corrections);
    encode(u.states[0], m, draws);
    encode(u.states[1], v, draws);
    if (codes)
      quantize_into(*codes, w, key);
    else if (!in_place)
      stochastic_bf16(u.weight, w, key);
  }
}

}  // namespace nibble::cpu
