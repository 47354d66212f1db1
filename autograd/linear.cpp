#include "autograd/linear.h"

#include "autograd/context.h"
#include "autograd/operand.h"
#include "autograd/origin.h"
#include "tensor/ops.h"

namespace nibble {
namespace {

// y = nt(x̂, ŵ);  dx = nt(d̂y, ŵᵀ);  dw = nt(d̂yᵀ, x̂ᵀ);  db = Σ_m dy
struct Linear {
  static constexpr const char* name = "linear";
  // One of them: x as it was [..., K], wgrad's encoding of xᵀ, or what x was made of.
  Saved x;
  std::optional<QTensor> x_code;
  std::shared_ptr<const Origin> x_origin;
  Parameter* weight;
  Parameter* bias;
  LinearRecipe recipe;  // a copy: the caller's may be a temporary
  RngKey x_key, w_key, dy_key;
  DType dtype;

  void backward(Grads& g) const {
    const bool wants_dx = g.wants(0), wants_dw = g.wants(1);
    std::pair<Value, Value> dy = encode_dy(g, wants_dx, wants_dw);
    g.release_out();
    // dw first: what it reads is gone before dx, often the largest, comes.
    if (wants_dw) add_dw(g, dy.second);
    dy.second = Value();
    if (wants_dx) add_dx(g, dy.first);
  }

  void add_dx(Grads& g, const Value& dy) const {
    const GemmRecipe& d = recipe.dgrad;
    Tensor dx =
        matmul_nt(dy, encode_dgrad_weight(*weight, recipe, w_key, dtype),
                  {.mode = d.mode, .out = dtype, .bias = {}, .accumulation = d.accumulation});
    if (const auto& custom = recipe.fprop.lhs.custom)
      dx = custom->backward(dx, x.get().flatten_rows());
    g.add(0, dx.view(g.input_shape(0)));
  }

  void add_dw(Grads& g, const Value& dy) const {
    const GemmRecipe& w = recipe.wgrad;
    if (const auto& custom = recipe.fprop.rhs.custom) {
      const DType wide = dtype == DType::F64 ? DType::F64 : DType::F32;
      const Tensor dw =
          matmul_nt(dy, wgrad_input(),
                    {.mode = w.mode, .out = wide, .bias = {}, .accumulation = w.accumulation});
      g.add(1, custom->backward(dw, weight->dense(wide)));
      return;
    }
    const Value input = wgrad_input();
    Grads::Sink dw = g.sink(1);
    matmul_nt_into(dw.destination, dy, input, w.mode, dw.accumulate, w.accumulation);
  }

  // Both operands that are made of dy, and db beside them: by its producer, or here.
  std::pair<Value, Value> encode_dy(Grads& g, bool for_dx, bool for_dw) const {
    const bool for_db = bias && g.wants(2);
    if (const Encoded* produced = g.encoded_out()) {
      if (for_db && produced->column_sums().defined()) g.add(2, produced->column_sums());
      return {*produced->find(*recipe.dgrad.lhs.quant),
              *produced->find(*recipe.wgrad.lhs.quant, true)};
    }
    const Tensor dy = ops::contiguous(g.out()).flatten_rows();
    const Tensor sums = g.column_sums();
    EncodedGradient e = encode_gradient(dy, recipe, dy_key, for_dx, for_dw,
                                        for_db && !sums.defined() ? bias : nullptr);
    if (for_db && sums.defined()) {
      g.add(2, sums);
    } else if (e.has_sums) {
      if (e.column_sums.defined()) g.add(2, std::move(e.column_sums));
    } else if (for_db) {
      Grads::Sink db = g.sink(2);
      const bool wider = dtype == DType::F64;
      ops::column_sum_into(db.destination, wider ? dy.to(db.destination.dtype()) : dy,
                           db.accumulate);
    }
    return {std::move(e.for_dx), std::move(e.for_dw)};
  }

  Value wgrad_input() const {  // x̂ᵀ [K, M]
    if (x_origin) return remake_wgrad_input(*x_origin, recipe, x_key);
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
  return encode_codes(rows, spec, key, true, "wgrad.rhs");
}

bool saves_codes(const LinearRecipe& r) {
  if (r.save == Save::Encoded) return true;
  const Encoding& reused = r.wgrad.rhs.source == Source::ReuseForward ? r.fprop.lhs : r.wgrad.rhs;
  return r.save == Save::Recompute && reused.quant;
}

Tensor product(const Value& x, const Value& w, Parameter* bias, const GemmRecipe& fprop,
               DType dtype) {
  return matmul_nt(x, w,
                   {.mode = fprop.mode,
                    .out = dtype,
                    .bias = bias ? bias->dense(dtype) : Tensor(),
                    .accumulation = fprop.accumulation});
}

// y formed again, from what x was made of or else from fprop's operand.
struct OutputKeys {
  RngKey x, w;
};
std::shared_ptr<Remade> remade_output(const Var& x, const Value& lhs, Parameter& weight,
                                      Parameter* bias, const LinearRecipe& recipe,
                                      const OutputKeys& keys, const Shape& shape) {
  const auto origin = x.origin();
  const Value kept = origin ? Value() : lhs;
  const std::string* module = &module_path();
  return std::make_shared<Remade>(
      [origin, kept, &weight, bias, recipe, keys, shape, module, dtype = x.dtype()] {
        const ModuleScope scope(*module);
        const GemmRecipe& f = recipe.fprop;
        const Value again = origin ? remake_fprop_input(*origin, recipe, keys.x) : kept;
        const Value w = encode_weight(weight, f.rhs, f.mode, keys.w, false, dtype, "fprop.rhs");
        return product(again, w, bias, f, dtype).view(shape);
      });
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
  const DType dtype = x.dtype();
  const GemmRecipe& f = recipe.fprop;

  // The producer's encodings, or both by one pass where both are wanted.
  Tensor input, rows;
  const auto read_values = [&] {
    if (input.defined()) return;
    input = ops::contiguous(x.tensor());
    rows = input.flatten_rows();
  };
  const auto* encoded = std::get_if<Encoded>(&x.value());
  std::optional<Encoded> own;
  const bool trains = Tape::active() && weight.requires_grad;
  const bool remakes_x = trains && recipe.save == Save::Recompute && x.origin();
  if (!encoded && !remakes_x) {
    read_values();
    own = encode_input(rows, weight, recipe);
    if (own) encoded = &*own;
  }
  const bool reads_codes = encoded && f.mode == Mode::Real && f.lhs.quant;
  const QTensor* ready = reads_codes ? encoded->find(*f.lhs.quant) : nullptr;
  const QTensor* ready_t =
      encoded && recipe.wgrad.rhs.quant ? encoded->find(*recipe.wgrad.rhs.quant, true) : nullptr;
  // Only what the encodings do not cover needs the values themselves.
  const bool keeps_codes = trains && !remakes_x && saves_codes(recipe);
  const bool keeps_x = f.lhs.custom || (trains && !remakes_x && !keeps_codes);
  if (!ready || keeps_x || (keeps_codes && !ready_t)) read_values();

  const Value lhs =
      ready ? Value(*ready) : encode_operand(rows, f.lhs, f.mode, x_key, false, "fprop.lhs");
  const Value rhs = encode_weight(weight, f.rhs, f.mode, w_key, false, dtype, "fprop.rhs");
  Shape shape = x.shape();
  shape[-1] = w[0];
  const Tensor y = product(lhs, rhs, bias, f, dtype).view(shape);

  const Var weight_var(weight), bias_var = bias ? Var(*bias) : Var();
  Var out = record<Linear>({&x, &weight_var, &bias_var}, y, [&] {
    Linear node{.x = {},
                .x_code = {},
                .x_origin = remakes_x ? x.origin() : nullptr,
                .weight = &weight,
                .bias = bias,
                .recipe = recipe,
                .x_key = x_key,
                .w_key = w_key,
                .dy_key = dy_key,
                .dtype = dtype};
    if (keeps_codes) node.x_code = ready_t ? *ready_t : encode_for_wgrad(rows, lhs, recipe, x_key);
    if (keeps_x) node.x = Saved(x, input);
    return node;
  });
  Tape* tape = Tape::active();
  if (tape && out.tracked() && !recipe.keep_output && !f.lhs.custom)
    out.set_remade(remade_output(x, lhs, weight, bias, recipe, {x_key, w_key}, shape));
  const bool trains_bias = bias && bias->requires_grad;
  if (tape && out.tracked() && x.tracked() && weight.requires_grad)
    if (auto wanted = wanted_of_gradient(recipe, dy_key, trains_bias ? bias : nullptr))
      tape->want(out, std::move(*wanted));
  if (tape && out.tracked() && trains_bias && dtype != DType::F64) tape->want_column_sums(out);
  return out;
}

}  // namespace nibble
