#include "autograd/linear.h"

#include "autograd/context.h"
#include "autograd/operand.h"
#include "tensor/ops.h"

namespace nibble {
namespace {

// y = nt(x̂, ŵ);  dx = nt(d̂y, ŵᵀ);  dw = nt(d̂yᵀ, x̂ᵀ);  db = Σ_m dy
struct Linear {
  static constexpr const char* name = "linear";
  Saved x;                        // Save::Original, as it was: [..., K]
  std::optional<QTensor> x_code;  // Save::Encoded: wgrad's encoding of xᵀ
  Parameter* weight;
  Parameter* bias;
  const LinearRecipe* recipe;
  RngKey x_key, w_key, dy_key;
  DType dtype;

  void backward(Grads& g) const {
    const Tensor dy = ops::contiguous(g.out()).flatten_rows();
    if (bias && g.wants(2)) {
      Grads::Sink db = g.sink(2);
      ops::column_sum_into(db.destination, dy, db.accumulate);
    }
    const LinearRecipe& r = *recipe;
    const bool wants_dx = g.wants(0), wants_dw = g.wants(1);
    auto [for_dx, for_dw] = encode_dy(dy, wants_dx, wants_dw);
    if (wants_dx) {
      Tensor dx =
          matmul_nt(for_dx, dgrad_weight(), {.mode = r.dgrad.mode, .out = dtype, .bias = {}});
      if (r.fprop.lhs.custom) dx = r.fprop.lhs.custom->backward(dx, x.get().flatten_rows());
      g.add(0, dx.view(g.input_shape(0)));
    }
    if (!wants_dw) return;
    if (r.fprop.rhs.custom) {
      const Tensor dw =
          matmul_nt(for_dw, wgrad_input(), {.mode = r.wgrad.mode, .out = DType::F32, .bias = {}});
      g.add(1, r.fprop.rhs.custom->backward(dw, weight->dense(DType::F32)));
      return;
    }
    Grads::Sink dw = g.sink(1);
    matmul_nt_into(dw.destination, for_dw, wgrad_input(), r.wgrad.mode, dw.accumulate);
  }

  // Both encodings of dy; one pass over it when both products are Real.
  std::pair<Value, Value> encode_dy(const Tensor& dy, bool for_dx, bool for_dw) const {
    const GemmRecipe &d = recipe->dgrad, &w = recipe->wgrad;
    const bool both = for_dx && for_dw && d.mode == Mode::Real && w.mode == Mode::Real &&
                      d.lhs.quant && w.lhs.quant && !forward_context().telemetry;
    if (both) {
      auto [a, b] = quantize_pair(dy, *d.lhs.quant, *w.lhs.quant, dy_key);
      return {std::move(a), std::move(b)};
    }
    std::pair<Value, Value> out;
    if (for_dx) out.first = encode_operand(dy, d.lhs, d.mode, dy_key, false, "dgrad.lhs");
    if (for_dw) out.second = encode_operand(dy, w.lhs, w.mode, dy_key, true, "wgrad.lhs");
    return out;
  }

  Value dgrad_weight() const {  // ŵᵀ [K, N]
    const Encoding& e = recipe->dgrad.rhs;
    if (e.source != Source::ReuseForward)
      return encode_weight(*weight, e, recipe->dgrad.mode, w_key, true, dtype, "dgrad.rhs");
    const Encoding& f = recipe->fprop.rhs;
    if (recipe->dgrad.mode == Mode::Real)
      return weight->encoded(*f.quant, false, w_key).t_contiguous();
    return std::get<Tensor>(
               encode_weight(*weight, f, Mode::Simulated, w_key, false, dtype, "fprop.rhs"))
        .t();
  }

  Value wgrad_input() const {  // x̂ᵀ [K, M]
    const GemmRecipe& w = recipe->wgrad;
    if (x_code) {
      if (w.mode == Mode::Real) return *x_code;
      return dequantize(*x_code, dtype);
    }
    const Tensor rows = x.get().flatten_rows();
    if (w.rhs.source != Source::ReuseForward)
      return encode_operand(rows, w.rhs, w.mode, x_key, true, "wgrad.rhs");
    const Value forward =
        encode_operand(rows, recipe->fprop.lhs, w.mode, x_key, false, "wgrad.rhs");
    if (const auto* codes = std::get_if<QTensor>(&forward)) return codes->t_contiguous();
    return std::get<Tensor>(forward).t();
  }
};

// The encoding of xᵀ that wgrad will need, from what fprop already made of x where that serves.
QTensor encode_for_wgrad(const Tensor& rows, const Value& forward, const LinearRecipe& r,
                         const RngKey& key) {
  const auto* codes = std::get_if<QTensor>(&forward);
  const Encoding& e = r.wgrad.rhs;
  const QuantSpec spec = e.source == Source::ReuseForward ? r.fprop.lhs.quant->t() : *e.quant;
  if (codes && codes->spec().t() == spec) return codes->t_contiguous();
  return quantize(rows, spec, key, true);
}

}  // namespace

Var linear(const Var& x, Parameter& weight, Parameter* bias, const LinearRecipe& recipe) {
  const Shape w = weight.shape();
  NIBBLE_CHECK(w.rank() == 2 && x.shape().rank() >= 1 && x.size(-1) == w[1], "linear",
               "got x {} and weight {} ({}), expected [..., K] and [N, K]", x.shape(), w,
               weight.name);
  NIBBLE_CHECK(!bias || bias->shape() == Shape({w[0]}), "linear", "got bias {}, expected [{}]",
               bias->shape(), w[0]);
  const RngKey x_key = random_key("x"), w_key = random_key("w"), dy_key = random_key("dy");
  const Tensor input = ops::contiguous(x.tensor());
  const Tensor rows = input.flatten_rows();
  const DType dtype = rows.dtype();
  const GemmRecipe& f = recipe.fprop;

  Value lhs;
  const auto* produced = std::get_if<Encoded>(&x.value());
  const QTensor* ready =
      produced && f.lhs.quant && f.mode == Mode::Real ? produced->find(*f.lhs.quant) : nullptr;
  if (ready)
    lhs = *ready;
  else
    lhs = encode_operand(rows, f.lhs, f.mode, x_key, false, "fprop.lhs");
  const Value rhs = encode_weight(weight, f.rhs, f.mode, w_key, false, dtype, "fprop.rhs");
  Tensor y = matmul_nt(
      lhs, rhs, {.mode = f.mode, .out = dtype, .bias = bias ? bias->dense(dtype) : Tensor()});
  Shape shape = input.shape();
  shape[-1] = w[0];

  const Var weight_var(weight),
      bias_var = bias ? Var(*bias) : Var(Tensor::empty({0}, dtype, y.device()));
  return record<Linear>({&x, &weight_var, &bias_var}, y.view(shape), [&] {
    Linear node{.x = {},
                .x_code = {},
                .weight = &weight,
                .bias = bias,
                .recipe = &recipe,
                .x_key = x_key,
                .w_key = w_key,
                .dy_key = dy_key,
                .dtype = dtype};
    if (!weight.requires_grad && !f.lhs.custom) return node;  // nothing reads x again
    const QTensor* transposed = produced && recipe.wgrad.rhs.quant
                                    ? produced->find(*recipe.wgrad.rhs.quant, true)
                                    : nullptr;
    if (recipe.save == Save::Encoded && weight.requires_grad)
      node.x_code = transposed ? *transposed : encode_for_wgrad(rows, lhs, recipe, x_key);
    if (recipe.save == Save::Original || f.lhs.custom) node.x = Saved(input);
    return node;
  });
}

}  // namespace nibble
