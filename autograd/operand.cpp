#include "autograd/operand.h"

#include <tuple>
#include <utility>

#include "autograd/context.h"
#include "autograd/linear.h"
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
                    ops::contiguous(decoded), spec, codes ? codes->scales_f32() : Tensor());
}

// Both encodings of dy that Real products want.
std::pair<QTensor, QTensor> encode_both(const Tensor& dy, const QuantSpec& spec,
                                        const QuantSpec& spec_t, const RngKey& key) {
  if (spec.calibration.history == 0 && spec_t.calibration.history == 0)
    return quantize_pair(dy, spec, spec_t, key);
  QTensor a = encode_codes(dy, spec, key, false, "dgrad.lhs");
  QTensor b =
      spec_t == spec.t() ? a.t_contiguous() : encode_codes(dy, spec_t, key, true, "wgrad.lhs");
  return {std::move(a), std::move(b)};
}

bool is_real(const GemmRecipe& gemm, const Encoding& operand) {
  return gemm.mode == Mode::Real && operand.quant;
}

std::optional<Encoded> encode_plain(const Tensor& x, const Wanted& wanted) {
  PairSource source;
  source.x = x.flatten_rows();
  return encode_pair(source, x.shape(), wanted);
}

Value transposed(const Value& matrix) {
  if (const auto* codes = std::get_if<QTensor>(&matrix)) return codes->t_contiguous();
  return std::get<Tensor>(matrix).t();
}

}  // namespace

QTensor encode_codes(const Tensor& x, const QuantSpec& spec, const RngKey& key, bool transposed,
                     std::string_view role) {
  ScaleHistory* const scales = forward_context().scales;
  const int steps = spec.calibration.history;
  if (!scales || steps == 0) return quantize(x, spec, key, transposed);
  // Both products that read a tensor share its history, so that it does not matter how many do.
  const bool gradient = role == "dgrad.lhs" || role == "wgrad.lhs";
  ScaleHistory::Entry& entry =
      scales->at(fmt::format("{}:{}{}", module_path(), gradient ? "dy" : "x", steps), steps);
  QTensor q = quantize_delayed(x, transposed ? spec.t() : spec, key, entry);
  return transposed ? q.t_contiguous() : q;
}

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
    out = encode_codes(x, spec, key, transposed, role);
  else
    out = transposed ? fake_quantize(x, spec.t(), key).t() : fake_quantize(x, spec, key);
  note(x, out, spec, transposed, role);
  return out;
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
  // The turned codes are a form of their own, made once an update. Of weights that are codes they
  // would take as much again as the weights.
  if (is_real(d, recipe.fprop.rhs) && !weight.is_quantized()) {
    Encoding turned = recipe.fprop.rhs;
    turned.quant = turned.quant->t();
    return encode_weight(weight, turned, d.mode, w_key, true, dtype, "dgrad.rhs");
  }
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

std::optional<Wanted> wanted_of_input(const Parameter& weight, const LinearRecipe& recipe) {
  const GemmRecipe &f = recipe.fprop, &w = recipe.wgrad;
  const Tape* tape = Tape::active();
  const bool watched = forward_context().telemetry || (tape && !tape->may_encode());
  const bool trains = tape && weight.requires_grad;
  if (!recipe.fuse || watched || !is_real(f, f.lhs) || !is_real(w, w.rhs)) return std::nullopt;
  if (trains && recipe.save == Save::Original) return std::nullopt;  // wgrad reads x itself
  return Wanted{.by_row = *f.lhs.quant,
                .by_column = *w.rhs.quant,
                .key = random_key("x"),
                .transpose = trains && recipe.save == Save::Encoded,
                .bias = nullptr};
}

std::optional<Encoded> encode_input(const Tensor& x, const Parameter& weight,
                                    const LinearRecipe& recipe) {
  std::optional<Wanted> wanted = wanted_of_input(weight, recipe);
  if (!wanted || !Tape::active() || !weight.requires_grad) return std::nullopt;
  wanted->transpose = true;
  return encode_plain(x, *wanted);
}

Value remake_fprop_input(const Origin& x, const LinearRecipe& recipe, const RngKey& x_key) {
  const GemmRecipe &f = recipe.fprop, &w = recipe.wgrad;
  if (recipe.fuse && is_real(f, f.lhs) && is_real(w, w.rhs)) {
    PairSource source = x.to_make();
    const Wanted wanted{.by_row = *f.lhs.quant,
                        .by_column = *w.rhs.quant,
                        .key = x_key,
                        .transpose = false,
                        .bias = nullptr};
    if (const auto codes = encode_pair(source, source.x.shape(), wanted))
      return *codes->find(wanted.by_row);
  }
  return encode_operand(x.matrix(), f.lhs, f.mode, x_key, false, "fprop.lhs");
}

Value remake_wgrad_input(const Origin& x, const LinearRecipe& recipe, const RngKey& x_key) {
  const GemmRecipe& w = recipe.wgrad;
  if (recipe.fuse && is_real(w, w.rhs) && w.rhs.quant->calibration.history == 0 &&
      !forward_context().telemetry)
    if (auto codes = x.transposed_codes(*w.rhs.quant, x_key)) return std::move(*codes);
  return encode_wgrad_input(x.matrix(), recipe, x_key);
}

std::optional<Wanted> wanted_of_gradient(const LinearRecipe& recipe, const RngKey& key,
                                         Parameter* bias) {
  const GemmRecipe &d = recipe.dgrad, &w = recipe.wgrad;
  const bool codes = is_real(d, d.lhs) && is_real(w, w.lhs);
  if (!recipe.fuse || !codes || forward_context().telemetry) return std::nullopt;
  return Wanted{.by_row = *d.lhs.quant,
                .by_column = *w.lhs.quant,
                .key = key,
                .transpose = true,
                .bias = bias};
}

EncodedGradient encode_gradient(const Tensor& dy, const LinearRecipe& recipe, const RngKey& key,
                                bool for_dx, bool for_dw, Parameter* bias) {
  const GemmRecipe &d = recipe.dgrad, &w = recipe.wgrad;
  const auto wanted = for_dx && for_dw ? wanted_of_gradient(recipe, key, bias) : std::nullopt;
  if (wanted)
    if (const auto e = encode_plain(dy, *wanted))
      return {*e->find(wanted->by_row), *e->find(wanted->by_column, true), bias != nullptr,
              e->column_sums()};
  EncodedGradient out;
  if (for_dx && for_dw && is_real(d, d.lhs) && is_real(w, w.lhs) && !forward_context().telemetry) {
    std::tie(out.for_dx, out.for_dw) = encode_both(dy, *d.lhs.quant, *w.lhs.quant, key);
    return out;
  }
  if (for_dx) out.for_dx = encode_operand(dy, d.lhs, d.mode, key, false, "dgrad.lhs");
  if (for_dw) out.for_dw = encode_operand(dy, w.lhs, w.mode, key, true, "wgrad.lhs");
  return out;
}

}  // namespace nibble
