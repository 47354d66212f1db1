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
  LinearRecipe recipe;  // a copy: the caller's may be a temporary
  RngKey x_key, w_key, dy_key;
  DType dtype;

  void backward(Grads& g) const {
    const Tensor dy = ops::contiguous(g.out()).flatten_rows();
    if (bias && g.wants(2)) {
      Grads::Sink db = g.sink(2);
      const bool wider = dtype == DType::F64;
      ops::column_sum_into(db.destination, wider ? dy.to(db.destination.dtype()) : dy,
                           db.accumulate);
    }
    const LinearRecipe& r = recipe;
    const bool wants_dx = g.wants(0), wants_dw = g.wants(1);
    auto [for_dx, for_dw] = encode_dy(dy, wants_dx, wants_dw);
    if (wants_dx) {
      Tensor dx = matmul_nt(
          for_dx, encode_dgrad_weight(*weight, r, w_key, dtype),
          {.mode = r.dgrad.mode, .out = dtype, .bias = {}, .accumulation = r.dgrad.accumulation});
      if (r.fprop.lhs.custom) dx = r.fprop.lhs.custom->backward(dx, x.get().flatten_rows());
      g.add(0, dx.view(g.input_shape(0)));
    }
    if (!wants_dw) return;
    if (r.fprop.rhs.custom) {
      const DType wide = dtype == DType::F64 ? DType::F64 : DType::F32;
      const Tensor dw = matmul_nt(
          for_dw, wgrad_input(),
          {.mode = r.wgrad.mode, .out = wide, .bias = {}, .accumulation = r.wgrad.accumulation});
      g.add(1, r.fprop.rhs.custom->backward(dw, weight->dense(wide)));
      return;
    }
    Grads::Sink dw = g.sink(1);
    matmul_nt_into(dw.destination, for_dw, wgrad_input(), r.wgrad.mode, dw.accumulate,
                   r.wgrad.accumulation);
  }

  // Both encodings of dy; one pass over it when both products are Real.
  std::pair<Value, Value> encode_dy(const Tensor& dy, bool for_dx, bool for_dw) const {
    const GemmRecipe &d = recipe.dgrad, &w = recipe.wgrad;
    const bool both = for_dx && for_dw && d.mode == Mode::Real && w.mode == Mode::Real &&
                      d.lhs.quant && w.lhs.quant && !forward_context().telemetry;
    if (both) return encode_gradient(dy, d.lhs, w.lhs, dy_key);
    std::pair<Value, Value> out;
    if (for_dx) out.first = encode_operand(dy, d.lhs, d.mode, dy_key, false, "dgrad.lhs");
    if (for_dw) out.second = encode_operand(dy, w.lhs, w.mode, dy_key, true, "wgrad.lhs");
    return out;
  }

  Value wgrad_input() const {  // x̂ᵀ [K, M]
    if (!x_code) return encode_wgrad_input(x.get().flatten_rows(), recipe, x_key);
    if (recipe.wgrad.mode == Mode::Real) return *x_code;
    return dequantize(*x_code, dtype);
  }
};

// The encoding of xᵀ that wgrad will need, from what fprop already made of x where that serves.
QTensor encode_for_wgrad(const Tensor& rows, const Value& forward, const LinearRecipe& r,
                         const RngKey& key) {
  const auto* codes = std::get_if<QTensor>(&forward);
  const bool reuses = r.wgrad.rhs.source == Source::ReuseForward;
  const std::optional<QuantSpec>& stated = reuses ? r.fprop.lhs.quant : r.wgrad.rhs.quant;
  NIBBLE_CHECK(stated, "linear", "recipe {} saves codes that it does not state; validate() it",
               r.name);
  const QuantSpec spec = reuses ? stated->t() : *stated;
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
  Tensor y = matmul_nt(lhs, rhs,
                       {.mode = f.mode,
                        .out = dtype,
                        .bias = bias ? bias->dense(dtype) : Tensor(),
                        .accumulation = f.accumulation});
  Shape shape = input.shape();
  shape[-1] = w[0];

  const Var weight_var(weight), bias_var = bias ? Var(*bias) : Var();
  return record<Linear>({&x, &weight_var, &bias_var}, y.view(shape), [&] {
    Linear node{.x = {},
                .x_code = {},
                .weight = &weight,
                .bias = bias,
                .recipe = recipe,
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
