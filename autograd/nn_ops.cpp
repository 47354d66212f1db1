// Products, norms, attention and losses.
#include "autograd/context.h"
#include "autograd/ops.h"
#include "autograd/origin.h"
#include "tensor/operation_count.h"
#include "tensor/residual.h"

namespace nibble {
namespace {

// y = a·b;  da = dy·bᵀ, db = aᵀ·dy (batch dimensions that were broadcast are summed by Grads::add)
struct Matmul {
  static constexpr const char* name = "matmul";
  Saved a, b;
  void backward(Grads& g) const {
    if (g.wants(0)) g.add(0, ops::matmul(g.out(), b.get().transpose(-2, -1)));
    if (g.wants(1)) g.add(1, ops::matmul(a.get().transpose(-2, -1), g.out()));
  }
};

// Gradients of norm parameters go straight into their buffers.
Grads::Sink sink_of(Grads& g, int input) {
  return g.wants(input) ? g.sink(input) : Grads::Sink{Tensor(), true};
}
// Zeroed first unless there is something.
Tensor accumulator(const Grads::Sink& sink) {
  Tensor sum = sink.destination;
  if (!sink.accumulate) sum.fill(0);
  return sum;
}

// x̂ = (x − μ)·r;  dx = r(γdy − mean(γdy) − x̂·mean(γdy·x̂)), dγ = Σ dy·x̂, dβ = Σ dy
// What x has as its gradient already (a residual's, as a rule) is added in the same pass.
struct LayerNormNode {
  static constexpr const char* name = "layer_norm";
  Saved x;
  Tensor mean, rstd;
  Parameter* gamma;
  void backward(Grads& g) const {
    const Tensor rows = x.get().flatten_rows();
    Tensor dx = g.wants(0) ? Tensor::empty(rows.shape(), rows.dtype(), rows.device()) : Tensor();
    const Tensor dy = ops::contiguous(g.out()).flatten_rows(), scale = gamma->dense(rows.dtype());
    Tensor before = g.take(0);
    if (before.defined()) before = ops::contiguous(before).flatten_rows();
    // From here on the gradients count as there: nothing may fail before they are written.
    const Grads::Sink for_gamma = sink_of(g, 1), for_beta = sink_of(g, 2);
    const bool fresh = before.defined() && !for_gamma.accumulate && !for_beta.accumulate;
    Tensor dgamma = fresh ? for_gamma.destination : accumulator(for_gamma),
           dbeta = fresh ? for_beta.destination : accumulator(for_beta);
    if (before.defined())
      NIBBLE_DISPATCH(rows.device(), add_layer_norm_backward(dx, dgamma, dbeta, dy, rows, scale,
                                                             mean, rstd, before, !fresh));
    else
      NIBBLE_DISPATCH(rows.device(),
                      layer_norm_backward(dx, dgamma, dbeta, dy, rows, scale, mean, rstd));
    if (dx.defined()) g.add(0, dx.view(g.input_shape(0)));
  }
};

// The sum that a norm of it was formed with: h = x + r;  dx = dh, dr = dh
struct Added {
  static constexpr const char* name = "add";
  void backward(Grads& g) const {
    g.add(0, g.out());
    g.add(1, g.out());
  }
};

PairSource norm_source(const Tensor& x, Parameter& gamma, Parameter* beta, double epsilon) {
  PairSource source;
  source.kind = PairSource::Kind::LayerNorm;
  source.x = x.flatten_rows();
  source.gamma = gamma.dense(x.dtype());
  if (beta) source.beta = beta->dense(x.dtype());
  source.epsilon = epsilon;
  return source;
}

Var record_norm(const Var& x, Parameter& gamma, Parameter* beta, Value y, const PairSource& source,
                const Tensor& input) {
  const Var gamma_var(gamma), beta_var = beta ? Var(*beta) : Var();
  const Saved saved(x, input);
  Var out = record<LayerNormNode>({&x, &gamma_var, &beta_var}, std::move(y), [&] {
    return LayerNormNode{saved, source.mean, source.rstd, &gamma};
  });
  PairSource of = source;
  of.kind = PairSource::Kind::LayerNorm;
  of.x = of.residual = of.sum = Tensor();
  if (Tape::active()) out.set_origin(std::make_shared<Origin>(Origin{std::move(of), saved}));
  return out;
}

// dx = r(γdy − x̂·mean(γdy·x̂)), dγ = Σ dy·x̂
struct RmsNormNode {
  static constexpr const char* name = "rms_norm";
  Saved x;
  Tensor rstd;
  Parameter* gamma;
  void backward(Grads& g) const {
    const Tensor rows = x.get().flatten_rows();
    Tensor dx = g.wants(0) ? Tensor::empty(rows.shape(), rows.dtype(), rows.device()) : Tensor();
    Tensor dgamma = accumulator(sink_of(g, 1));
    NIBBLE_DISPATCH(rows.device(),
                    rms_norm_backward(dx, dgamma, ops::contiguous(g.out()).flatten_rows(), rows,
                                      gamma->dense(rows.dtype()), rstd));
    if (dx.defined()) g.add(0, dx.view(g.input_shape(0)));
  }
};

// P = softmax(s·q·kᵀ), out = P·v;  dv = Pᵀ·dout, dS = P ∘ (dout·vᵀ − rowsum(dout ∘ out)),
// dq = s·dS·k, dk = s·dSᵀ·q, with P recomputed from the saved log-sum-exp
struct AttentionNode {
  static constexpr const char* name = "attention";
  Saved q, k, v, out;
  Tensor lse;
  AttentionOptions options;
  void backward(Grads& g) const {
    Tensor dq = like(q), dk = like(k), dv = like(v);
    count_attention(4, dq.shape(), dk.size(1), options.causal);
    NIBBLE_DISPATCH(lse.device(), attention_backward(dq, dk, dv, ops::contiguous(g.out()), q, k, v,
                                                     out, lse, options));
    g.add(0, dq);
    g.add(1, dk);
    g.add(2, dv);
  }
  static Tensor like(const Tensor& x) { return Tensor::empty(x.shape(), x.dtype(), x.device()); }
};

// The same on [B, T, 3, H, D], whose gradient is one tensor.
struct SelfAttentionNode {
  static constexpr const char* name = "self_attention";
  Saved qkv, out;  // [B, T, 3·H·D] and [B, T, H, D]
  Tensor lse;
  AttentionOptions options;
  void backward(Grads& g) const {
    const Shape heads = out.get().shape();
    const Tensor packed = qkv.get().view({heads[0], heads[1], 3, heads[2], heads[3]});
    Tensor d = Tensor::empty(packed.shape(), packed.dtype(), packed.device());
    Tensor dq = d.select(2, 0), dk = d.select(2, 1), dv = d.select(2, 2);
    const Tensor dout = ops::contiguous(g.out()).view(heads);
    count_attention(4, dq.shape(), dk.size(1), options.causal);
    NIBBLE_DISPATCH(packed.device(),
                    attention_backward(dq, dk, dv, dout, packed.select(2, 0), packed.select(2, 1),
                                       packed.select(2, 2), out, lse, options));
    g.add(0, d.view(g.input_shape(0)));
  }
};

// The sum of x and a result that is made again is made again itself; not of a sum that is, or all
// blocks would be.
void remake_sum(Var& sum, const Var& x, const Var& r) {
  if (!Tape::active() || !r.remade() || x.remade() || x.shape() != r.shape() ||
      x.dtype() != r.dtype())
    return;
  sum.set_remade(
      std::make_shared<Remade>([a = Saved(x, ops::contiguous(x.tensor())), b = r.remade()] {
        return ops::add(a.get(), b->get());
      }));
}

// What the attention kernels ask of their inputs.
Tensor unit_stride(const Tensor& x) {
  return x.rank() == 0 || x.strides()[-1] == 1 ? x : ops::contiguous(x);
}

AttentionOptions attention_options(bool causal, double p) {
  NIBBLE_CHECK(p >= 0 && p < 1, "attention", "got dropout {}, expected [0, 1)", p);
  const double active = forward_context().training ? p : 0;
  return {.scale = 0, .causal = causal, .dropout = active, .key = random_key("attention")};
}

}  // namespace

Var matmul(const Var& a, const Var& b) {
  return record<Matmul>({&a, &b}, ops::matmul(a.tensor(), b.tensor()), [&] {
    return Matmul{b.tracked() ? Saved(a.tensor()) : Saved(),
                  a.tracked() ? Saved(b.tensor()) : Saved()};
  });
}

Var layer_norm(const Var& x, Parameter& gamma, Parameter* beta, double epsilon,
               const std::optional<Wanted>& wanted) {
  const Tensor input = ops::contiguous(x.tensor());
  PairSource source = norm_source(input, gamma, beta, epsilon);
  std::optional<Encoded> codes;
  if (wanted) codes = encode_pair(source, input.shape(), *wanted);
  if (codes) return record_norm(x, gamma, beta, std::move(*codes), source, input);
  ops::NormResult r = ops::layer_norm(input, source.gamma, source.beta, epsilon);
  source.mean = r.mean, source.rstd = r.rstd;
  return record_norm(x, gamma, beta, r.y, source, input);
}

AddedNorm add_layer_norm(const Var& x, const Var& r, Parameter& gamma, Parameter* beta,
                         double epsilon, const std::optional<Wanted>& wanted,
                         const std::string& norm_module) {
  if (x.shape() != r.shape() || x.dtype() != r.dtype()) {
    const Var added = add(x, r);
    const ModuleScope scope(norm_module);
    return {added, layer_norm(added, gamma, beta, epsilon, wanted)};
  }
  PairSource source = norm_source(ops::contiguous(x.tensor()), gamma, beta, epsilon);
  source.kind = PairSource::Kind::AddLayerNorm;
  source.residual = ops::contiguous(r.tensor()).flatten_rows();
  std::optional<Encoded> codes;
  Value norm;
  if (wanted) codes = encode_pair(source, x.shape(), *wanted);
  if (codes) {
    norm = std::move(*codes);
  } else {
    ops::AddedNorm both =
        ops::add_layer_norm(source.x, source.residual, source.gamma, source.beta, epsilon);
    source.sum = both.sum, source.mean = both.norm.mean, source.rstd = both.norm.rstd;
    norm = both.norm.y.view(x.shape());
  }
  const Tensor sum = source.sum.view(x.shape());
  Var added = record<Added>({&x, &r}, sum, [] { return Added{}; });
  remake_sum(added, x, r);
  const ModuleScope scope(norm_module);
  return {added, record_norm(added, gamma, beta, std::move(norm), source, sum)};
}

Var rms_norm(const Var& x, Parameter& gamma, double epsilon) {
  const Tensor input = ops::contiguous(x.tensor());
  ops::NormResult r = ops::rms_norm(input, gamma.dense(input.dtype()), epsilon);
  const Var gamma_var(gamma);
  return record<RmsNormNode>({&x, &gamma_var}, r.y, [&] {
    return RmsNormNode{Saved(input), r.rstd, &gamma};
  });
}

Var self_attention(const Var& qkv, int heads, bool causal, double dropout_p,
                   const std::optional<Wanted>& wanted) {
  const Tensor x = ops::contiguous(qkv.tensor());
  NIBBLE_CHECK(x.rank() == 3 && heads > 0 && x.size(2) % (3 * heads) == 0, "self_attention",
               "got {} for {} heads, expected [B, T, 3·heads·D]", x.shape(), heads);
  const std::int64_t width = x.size(2) / 3;
  const Tensor packed = x.view({x.size(0), x.size(1), 3, heads, width / heads});
  const AttentionOptions options = attention_options(causal, dropout_p);
  const Tensor q = packed.select(2, 0), k = packed.select(2, 1), v = packed.select(2, 2);
  ops::AttentionResult r;
  std::optional<Encoded> codes;
  if (wanted) codes = encode_attention(r.out, r.lse, q, k, v, options, *wanted);
  if (!codes) r = ops::attention(q, k, v, options);
  const Tensor y = r.out.view({x.size(0), x.size(1), width});
  Var out = record<SelfAttentionNode>({&qkv}, codes ? Value(std::move(*codes)) : Value(y), [&] {
    return SelfAttentionNode{Saved(qkv, x), Saved(r.out), r.lse, options};
  });
  if (Tape::active()) out.set_origin(std::make_shared<Origin>(Origin{PairSource{}, Saved(y)}));
  return out;
}

Var attention(const Var& q, const Var& k, const Var& v, bool causal, double dropout_p) {
  const AttentionOptions options = attention_options(causal, dropout_p);
  const Tensor dense_q = unit_stride(q.tensor()), dense_k = unit_stride(k.tensor()),
               dense_v = unit_stride(v.tensor());
  ops::AttentionResult r = ops::attention(dense_q, dense_k, dense_v, options);
  return record<AttentionNode>({&q, &k, &v}, r.out, [&] {
    return AttentionNode{Saved(dense_q), Saved(dense_k), Saved(dense_v),
                         Saved(r.out),   r.lse,          options};
  });
}

Var cross_entropy(const Var& logits, const Tensor& targets) {
  const std::int64_t rows = logits.tensor().rows();
  NIBBLE_CHECK(targets.dtype() == DType::I32 && targets.numel() == rows, "cross_entropy",
               "got targets {} for logits {}, expected one i32 a row", describe(targets),
               logits.shape());
  ops::check_targets(targets, logits.size(-1));
  // Losses of rows and their mean are not for bf16: eight bits cannot count 257 rows.
  const Var wide = logits.dtype() == DType::BF16 ? cast(logits, DType::F32) : logits;
  const DType dtype = wide.dtype();
  const Tensor t = ops::contiguous(targets).view({rows});
  const Tensor zero = Tensor::zeros({1}, dtype, t.device());
  const Tensor one = Tensor::full({1}, 1, dtype, t.device());
  const Tensor weights = ops::where(ops::less(t.to(dtype), zero), zero, one);
  // -1 picks some column whose weight is 0. f32 holds every index up to 2^24.
  NIBBLE_CHECK(logits.size(-1) <= 1 << 24, "cross_entropy", "got {} classes, expected at most 2^24",
               logits.size(-1));
  const Tensor index =
      ops::maximum(t.to(DType::F32), Tensor::zeros({1}, DType::F32, t.device())).to(DType::I32);
  const Var picked = take_along_last(log_softmax(reshape(wide, {rows, wide.size(-1)})), index);
  const Tensor count = ops::maximum(ops::sum(weights), one.view({}));
  return -(sum(picked * Var(weights)) / Var(count));
}

Var mse_loss(const Var& prediction, const Var& target) { return mean(square(prediction - target)); }

}  // namespace nibble
