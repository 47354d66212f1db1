// The fused classifier. Vocabulary chunks keep wgrad's products whole (each chunk owns its rows of
// dW) and the encodings of x shared by all chunks; dgrad sums over the chunks.
#include <algorithm>

#include "autograd/context.h"
#include "autograd/linear.h"
#include "autograd/operand.h"
#include "tensor/ops.h"

namespace nibble {
namespace {

// Rows [begin, end) of an encoded weight [V, C], whatever its form.
Value slice_rows(const Value& weight, std::int64_t begin, std::int64_t end) {
  const auto* q = std::get_if<QTensor>(&weight);
  if (!q) return std::get<Tensor>(weight).slice(0, begin, end);
  const Tile tile = q->spec().resolve(q->rows(), q->cols());
  const std::int64_t rows = end - begin;
  NIBBLE_CHECK(tile.rows >= q->rows() || begin % tile.rows == 0, "linear_cross_entropy",
               "vocabulary chunks cut the scale tiles of {} rows at row {}; choose a multiple as "
               "vocab_chunk",
               tile.rows, begin);
  const auto cut = [&](const Tensor& t) {
    if (!t.defined() || tile.rows >= q->rows()) return t;
    const std::int64_t last = (end + tile.rows - 1) / tile.rows;
    return t.slice(0, begin / tile.rows, last);
  };
  QuantSpec spec = q->spec();
  if (spec.row_splits > 1) {  // a part of the matrix has no thirds; the tile says the same
    spec.row_splits = 1;
    spec.tile.rows = tile.rows;
  }
  return QTensor(q->payload().slice(0, begin, end), cut(q->scales()), cut(q->zeros()),
                 q->global_scale(), spec, {rows, q->cols()});
}

// Columns [begin, end) of an encoded wᵀ [C, V], K-major again.
Value slice_cols(const Value& weight, std::int64_t begin, std::int64_t end) {
  const auto* q = std::get_if<QTensor>(&weight);
  if (!q) return std::get<Tensor>(weight).slice(1, begin, end);
  if (begin == 0 && end == q->cols()) return weight;
  const Value part = slice_rows(q->t(), begin, end);
  return std::get<QTensor>(part).t_contiguous();
}

struct LinearCrossEntropy {
  static constexpr const char* name = "linear_cross_entropy";
  Saved x;       // [..., C]
  Saved logits;  // [M, V] when one chunk holds them all
  Saved targets;
  Tensor lse, inverse_count;
  Parameter* weight;
  LinearRecipe recipe;
  RngKey x_key, w_key;
  std::vector<RngKey> chunk_keys;
  std::int64_t chunk;
  DType wide;  // of the losses, and of dx while the chunks add up; logits have x's dtype

  void backward(Grads& g) const {
    const LinearRecipe& r = recipe;
    const Tensor rows = x.get().flatten_rows();
    const std::int64_t vocab = weight->shape()[0];
    const Tensor scale = ops::mul(g.out(), inverse_count);
    const DType work = rows.dtype();

    Value forward_x, forward_w;
    if (!logits.defined()) {
      forward_x = encode_operand(rows, r.fprop.lhs, r.fprop.mode, x_key, false, "fprop.lhs");
      forward_w =
          encode_weight(*weight, r.fprop.rhs, r.fprop.mode, w_key, false, work, "fprop.rhs");
    }
    const bool wants_dx = g.wants(0), wants_dw = g.wants(1);
    Value dgrad_w, wgrad_x;
    if (wants_dx) dgrad_w = encode_dgrad_weight(*weight, r, w_key, work);
    if (wants_dw) wgrad_x = encode_wgrad_input(rows, r, x_key);
    Tensor dx = wants_dx ? Tensor::empty(rows.shape(), wide, rows.device()) : Tensor();
    Grads::Sink dw = wants_dw ? g.sink(1) : Grads::Sink{};

    const MemoryScope scope{"logits"};
    for (std::int64_t begin = 0, i = 0; begin < vocab; begin += chunk, ++i) {
      const std::int64_t end = std::min(begin + chunk, vocab);
      Tensor dlogits = logits.defined() ? logits.get()
                                        : matmul_nt(forward_x, slice_rows(forward_w, begin, end),
                                                    {.mode = r.fprop.mode,
                                                     .out = work,
                                                     .bias = {},
                                                     .accumulation = r.fprop.accumulation});
      ops::cross_entropy_backward(dlogits, dlogits, targets, lse, scale, begin);
      const RngKey& key = chunk_keys[static_cast<std::size_t>(i)];
      const EncodedGradient dy = encode_gradient(dlogits, r, key, wants_dx, wants_dw, false);
      if (wants_dx)
        matmul_nt_into(dx, dy.for_dx, slice_cols(dgrad_w, begin, end), r.dgrad.mode, begin > 0,
                       r.dgrad.accumulation);
      if (wants_dw) {
        Tensor part = dw.destination.slice(0, begin, end);
        matmul_nt_into(part, dy.for_dw, wgrad_x, r.wgrad.mode, dw.accumulate, r.wgrad.accumulation);
      }
    }
    if (wants_dx) g.add(0, dx.to(work).view(g.input_shape(0)));
  }
};

// [1, 1, …] where the target counts, as floats.
Tensor counted(const Tensor& targets, DType dtype) {
  const Tensor t = targets.to(dtype);
  const Tensor zero = Tensor::zeros({1}, dtype, t.device());
  const Tensor one = Tensor::full({1}, 1, dtype, t.device());
  return ops::where(ops::less(t, zero), zero, one);
}

// Everything the forward pass finds out, by chunks of the vocabulary.
struct Forward {
  Tensor input, rows, targets, logits, lse, target_logit, weights;
  RngKey x_key, w_key;
  std::vector<RngKey> chunk_keys;
  std::int64_t chunk;
  DType wide;
};

Forward run_forward(const Tensor& x, Parameter& weight, const Tensor& targets,
                    const LinearRecipe& recipe, const ClassifierOptions& options) {
  const Shape w = weight.shape();
  NIBBLE_CHECK(w.rank() == 2 && x.size(-1) == w[1], "linear_cross_entropy",
               "got x {} and weight {} ({}), expected [..., C] and [V, C]", x.shape(), w,
               weight.name);
  NIBBLE_CHECK(targets.dtype() == DType::I32 && targets.numel() == x.rows(), "linear_cross_entropy",
               "got targets {} for x {}, expected one i32 a row", describe(targets), x.shape());
  ops::check_targets(targets, w[0]);
  NIBBLE_CHECK(options.vocab_chunk > 0, "linear_cross_entropy",
               "got vocab_chunk {}, expected a positive one", options.vocab_chunk);
  NIBBLE_CHECK(!recipe.fprop.lhs.custom && !recipe.fprop.rhs.custom && !recipe.dgrad.lhs.custom &&
                   !recipe.dgrad.rhs.custom && !recipe.wgrad.lhs.custom && !recipe.wgrad.rhs.custom,
               "linear_cross_entropy",
               "custom quantizers are for linear layers; leave lm_head out");
  const std::int64_t vocab = w[0];
  Forward s;
  s.chunk = std::min(options.vocab_chunk, vocab);
  s.input = ops::contiguous(x);
  s.rows = s.input.flatten_rows();
  s.targets = ops::contiguous(targets).view({s.rows.size(0)});
  s.wide = s.rows.dtype() == DType::F64 ? DType::F64 : DType::F32;
  s.x_key = random_key("x");
  s.w_key = random_key("w");
  const GemmRecipe& f = recipe.fprop;
  const Value lhs = encode_operand(s.rows, f.lhs, f.mode, s.x_key, false, "fprop.lhs");
  const Value rhs =
      encode_weight(weight, f.rhs, f.mode, s.w_key, false, s.rows.dtype(), "fprop.rhs");
  const MemoryScope scope{"logits"};
  ops::CrossEntropyState state = ops::cross_entropy_begin(s.rows.size(0), s.wide, s.rows.device());
  for (std::int64_t begin = 0; begin < vocab; begin += s.chunk) {
    const Value part = slice_rows(rhs, begin, std::min(begin + s.chunk, vocab));
    s.logits = matmul_nt(
        lhs, part,
        {.mode = f.mode, .out = s.rows.dtype(), .bias = {}, .accumulation = f.accumulation});
    ops::cross_entropy_update(state, s.logits, s.targets, begin);
    s.chunk_keys.push_back(random_key(fmt::format("dlogits.{}", s.chunk_keys.size())));
  }
  if (s.chunk < vocab) s.logits = Tensor();
  s.lse = ops::cross_entropy_lse(state);
  s.target_logit = state.target_logit;
  s.weights = counted(s.targets, s.wide);
  return s;
}

}  // namespace

Tensor classifier_losses(const Tensor& x, Parameter& weight, const Tensor& targets,
                         const LinearRecipe& recipe, const ClassifierOptions& options) {
  const Forward s = run_forward(x, weight, targets, recipe, options);
  return ops::mul(ops::sub(s.lse, s.target_logit), s.weights);
}

Var linear_cross_entropy(const Var& x, Parameter& weight, const Tensor& targets,
                         const LinearRecipe& recipe, const ClassifierOptions& options) {
  Forward s = run_forward(x.tensor(), weight, targets, recipe, options);
  const Tensor one = Tensor::full({}, 1, s.wide, s.rows.device());
  // 1 / max(count, 1): a batch without targets has loss 0.
  const Tensor inverse_count = ops::div(one, ops::maximum(ops::sum(s.weights), one));
  const Tensor losses = ops::mul(ops::sub(s.lse, s.target_logit), s.weights);
  const Tensor loss = ops::mul(ops::sum(losses), inverse_count);
  const Var weight_var(weight);
  return record<LinearCrossEntropy>({&x, &weight_var}, loss, [&] {
    return LinearCrossEntropy{.x = Saved(s.input),
                              .logits = s.logits.defined() ? Saved(s.logits) : Saved(),
                              .targets = Saved(s.targets),
                              .lse = s.lse,
                              .inverse_count = inverse_count,
                              .weight = &weight,
                              .recipe = recipe,
                              .x_key = s.x_key,
                              .w_key = s.w_key,
                              .chunk_keys = std::move(s.chunk_keys),
                              .chunk = s.chunk,
                              .wide = s.wide};
  });
}

}  // namespace nibble
