#include "autograd/operand.h"

#include "autograd/context.h"
#include "autograd/telemetry.h"
#include "quant/scale_history.h"
#include "tensor/ops.h"

namespace nibble {
namespace {

void note(const Tensor& x, const Value& encoded, const QuantSpec& spec, bool transposed,
          std::string_view role) {
  Telemetry* telemetry = forward_context().telemetry;
  if (!telemetry) return;
  const auto* codes = std::get_if<QTensor>(&encoded);
  const Tensor decoded = codes ? dequantize(*codes) : std::get<Tensor>(encoded);
  telemetry->record(module_path(), std::string(role), transposed ? ops::contiguous(x.t()) : x,
                    ops::contiguous(decoded), spec);
}

// Real codes, by past ranges where the spec and the context have them.
QTensor encode(const Tensor& x, const QuantSpec& spec, const RngKey& key, bool transposed,
               std::string_view role) {
  ScaleHistory* const scales = forward_context().scales;
  if (!scales || spec.calibration.history == 0) return quantize(x, spec, key, transposed);
  ScaleHistory::Entry& entry =
      scales->at(fmt::format("{}:{}", module_path(), role), spec.calibration.history);
  QTensor q = quantize_delayed(x, transposed ? spec.t() : spec, key, entry);
  return transposed ? q.t_contiguous() : q;
}

Value transposed(const Value& matrix) {
  if (const auto* codes = std::get_if<QTensor>(&matrix)) return codes->t_contiguous();
  return std::get<Tensor>(matrix).t();
}

}  // namespace

Value encode_operand(const Tensor& x, const Encoding& encoding, Mode mode, const RngKey& key,
                     bool transposed, std::string_view role) {
  if (encoding.custom) {
    const Tensor matrix = transposed ? ops::contiguous(x.t()) : x;
    return encoding.custom->fake_quantize(matrix, key);
  }
  if (!encoding.quant) return transposed ? x.t() : x;
  const QuantSpec& spec = *encoding.quant;
  Value out;
  if (mode == Mode::Real)
    out = encode(x, spec, key, transposed, role);
  else
    out = transposed ? fake_quantize(x, spec.t(), key).t() : fake_quantize(x, spec, key);
  note(x, out, spec, transposed, role);
  return out;
}

std::pair<Value, Value> encode_gradient(const Tensor& dy, const Encoding& by_row,
                                        const Encoding& transposed, const RngKey& key) {
  const QuantSpec &spec = *by_row.quant, &spec_t = *transposed.quant;
  if (spec.calibration.history == 0 && spec_t.calibration.history == 0) {
    auto [a, b] = quantize_pair(dy, spec, spec_t, key);
    return {std::move(a), std::move(b)};
  }
  QTensor a = encode(dy, spec, key, false, "dgrad.lhs");
  QTensor b = spec_t == spec.t() ? a.t_contiguous() : encode(dy, spec_t, key, true, "wgrad.lhs");
  return {std::move(a), std::move(b)};
}

Value encode_weight(Parameter& weight, const Encoding& encoding, Mode mode, const RngKey& key,
                    bool transposed, DType dtype, std::string_view role) {
  if (mode == Mode::Simulated || !encoding.quant)
    return encode_operand(weight.dense(dtype), encoding, mode, key, transposed, role);
  const QTensor& codes = weight.encoded(*encoding.quant, transposed, key);
  if (forward_context().telemetry)
    note(weight.dense(DType::F32), codes, *encoding.quant, transposed, role);
  return codes;
}

Value encode_dgrad_weight(Parameter& weight, const LinearRecipe& recipe, const RngKey& w_key,
                          DType dtype) {
  const GemmRecipe& d = recipe.dgrad;
  if (d.rhs.source != Source::ReuseForward)
    return encode_weight(weight, d.rhs, d.mode, w_key, true, dtype, "dgrad.rhs");
  const Value forward =
      encode_weight(weight, recipe.fprop.rhs, d.mode, w_key, false, dtype, "dgrad.rhs");
  return transposed(forward);
}

Value encode_wgrad_input(const Tensor& x, const LinearRecipe& recipe, const RngKey& x_key) {
  const GemmRecipe& w = recipe.wgrad;
  if (w.rhs.source != Source::ReuseForward)
    return encode_operand(x, w.rhs, w.mode, x_key, true, "wgrad.rhs");
  return transposed(encode_operand(x, recipe.fprop.lhs, w.mode, x_key, false, "wgrad.rhs"));
}

}  // namespace nibble
