// The fused classifier. Chunks of tokens keep rows of logits whole, so that one pass makes their
// gradient, and dgrad's products whole; wgrad adds up over the chunks.
#include <algorithm>
#include <bit>

#include "autograd/context.h"
#include "autograd/linear.h"
#include "autograd/operand.h"
#include "quant/kernels.h"
#include "tensor/ops.h"

namespace nibble {
namespace {

constexpr const char* kOp = "linear_cross_entropy";

void check_cut(std::int64_t tile, std::int64_t tokens, std::int64_t at) {
  NIBBLE_CHECK(tile >= tokens || at % tile == 0, kOp,
               "token chunks cut the scale tiles of {} tokens at token {}; choose a multiple as "
               "token_chunk",
               tile, at);
}

// Rows [begin, end) of an encoded x [M, C], whatever its form.
Value slice_rows(const Value& x, std::int64_t begin, std::int64_t end) {
  const auto* q = std::get_if<QTensor>(&x);
  if (!q) return std::get<Tensor>(x).slice(0, begin, end);
  if (begin == 0 && end == q->rows()) return x;
  const Tile tile = q->spec().resolve(q->rows(), q->cols());
  check_cut(tile.rows, q->rows(), begin);
  const auto cut = [&](const Tensor& t) {
    if (!t.defined() || tile.rows >= q->rows()) return t;
    return t.slice(0, begin / tile.rows, (end + tile.rows - 1) / tile.rows);
  };
  return QTensor(q->payload().slice(0, begin, end), cut(q->scales()), cut(q->zeros()),
                 q->global_scale(), q->spec(), {end - begin, q->cols()});
}

// Columns [begin, end) of an encoded xᵀ [C, M], still K-major: views, which products of integers
// read as they are. Packed codes are copied.
Value slice_cols(const Value& x, std::int64_t begin, std::int64_t end) {
  const auto* q = std::get_if<QTensor>(&x);
  if (!q) return std::get<Tensor>(x).slice(1, begin, end);
  if (begin == 0 && end == q->cols()) return x;
  if (q->spec().packed) return std::get<QTensor>(slice_rows(q->t(), begin, end)).t_contiguous();
  const Tile tile = q->spec().resolve(q->rows(), q->cols());
  check_cut(tile.cols, q->cols(), begin);
  const auto cut = [&](const Tensor& t) {
    if (!t.defined() || tile.cols >= q->cols()) return t;
    const Tensor part = t.slice(1, begin / tile.cols, (end + tile.cols - 1) / tile.cols);
    return t.dtype() == DType::F32 ? part : ops::contiguous(part);
  };
  return QTensor(q->payload().slice(1, begin, end), cut(q->scales()), cut(q->zeros()),
                 q->global_scale(), q->spec(), {q->rows(), end - begin});
}

// dx = dx₁ · dloss;  dw = dw₁ · dloss, with the gradients of the loss itself
struct LinearCrossEntropy {
  static constexpr const char* name = kOp;
  Tensor dx, dw;  // undefined where not wanted

  void backward(Grads& g) const {
    if (g.wants(0)) {
      Tensor scaled = Tensor::empty(dx.shape(), dx.dtype(), dx.device());
      ops::scale_by(scaled, dx, g.out(), false);
      g.add(0, scaled.view(g.input_shape(0)));
    }
    if (!g.wants(1)) return;
    Grads::Sink sink = g.sink(1);
    ops::scale_by(sink.destination, dw.to(sink.destination.dtype()),
                  g.out().to(sink.destination.dtype()), sink.accumulate);
  }
};

// Tokens of a chunk. dlogits is encoded chunk by chunk: a Real product's scale over more tokens
// than that is each chunk's own, a Simulated one stands for what its definition says and takes them
// all.
std::int64_t chunk_of(const LinearRecipe& r, std::int64_t tokens, std::int64_t vocab,
                      std::int64_t asked) {
  NIBBLE_CHECK(asked >= 0, kOp, "got token_chunk {}, expected a positive one, or 0", asked);
  constexpr std::uint64_t kLogits = std::uint64_t{1} << 28, kLeast = 256;
  std::int64_t chunk = asked;
  if (chunk == 0)
    chunk = static_cast<std::int64_t>(
        std::max(kLeast, std::bit_floor(kLogits / std::max<std::uint64_t>(vocab, 1))));
  if (chunk >= tokens) return tokens;
  const auto consider = [&](const GemmRecipe& gemm, std::int64_t tile) {
    if (tile < tokens)
      check_cut(tile, tokens, chunk);
    else if (gemm.mode == Mode::Simulated)
      chunk = tokens;
  };
  if (const auto& spec = r.dgrad.lhs.quant) consider(r.dgrad, spec->resolve(tokens, vocab).rows);
  if (const auto& spec = r.wgrad.lhs.quant) consider(r.wgrad, spec->resolve(vocab, tokens).cols);
  return chunk;
}

// [1, 1, …] where the target counts, as floats.
Tensor counted(const Tensor& targets, DType dtype) {
  const Tensor t = targets.to(dtype);
  const Tensor zero = Tensor::zeros({1}, dtype, t.device());
  const Tensor one = Tensor::full({1}, 1, dtype, t.device());
  return ops::where(ops::less(t, zero), zero, one);
}

// An operand's rows as values, or as codes I8 with one step each.
struct Rows {
  Tensor x, steps;

  explicit Rows(const Value& value) {
    const auto* q = std::get_if<QTensor>(&value);
    if (!q) {
      x = ops::contiguous(std::get<Tensor>(value));
      return;
    }
    const QuantSpec& spec = q->spec();
    const bool plain = q->payload().dtype() == DType::I8 && q->scales().dtype() == DType::F32 &&
                       !q->zeros().defined() && !q->global_scale().defined();
    if (plain && spec.scale_shape(q->rows(), q->cols()) == Shape{q->rows(), 1}) {
      x = ops::contiguous(q->payload());
      steps = ops::contiguous(q->scales());
    } else {
      x = dequantize(*q);
    }
  }
};

class Classifier {
 public:
  Classifier(const Var& x, Parameter& weight, const Tensor& targets, const LinearRecipe& recipe,
             const ClassifierOptions& options)
      : weight_(weight), recipe_(recipe), dtype_(x.dtype()), width_(x.size(-1)) {
    const Shape w = weight.shape();
    NIBBLE_CHECK(w.rank() == 2 && width_ == w[1], kOp,
                 "got x {} and weight {} ({}), expected [..., C] and [V, C]", x.shape(), w,
                 weight.name);
    vocab_ = w[0];
    tokens_ = x.shape().numel() / std::max(width_, std::int64_t{1});
    NIBBLE_CHECK(targets.dtype() == DType::I32 && targets.numel() == tokens_, kOp,
                 "got targets {} for x {}, expected one i32 a row", describe(targets), x.shape());
    ops::check_targets(targets, vocab_);
    for (const GemmRecipe* gemm : {&recipe.fprop, &recipe.dgrad, &recipe.wgrad})
      NIBBLE_CHECK(!gemm->lhs.custom && !gemm->rhs.custom, kOp,
                   "custom quantizers are for linear layers; leave lm_head out");
    targets_ = ops::contiguous(targets).view({tokens_});
    chunk_ = chunk_of(recipe, tokens_, vocab_, options.token_chunk);
    exact_target_ = takes_targets_out(recipe);
    x_key_ = random_key("x");
    w_key_ = random_key("w");
    encode(x);
  }

  DType wide() const { return dtype_ == DType::F64 ? DType::F64 : DType::F32; }
  const Tensor& targets() const { return targets_; }

  Tensor losses() {
    Tensor losses = Tensor::empty({tokens_}, wide(), targets_.device());
    each_chunk([&](std::int64_t begin, std::int64_t end, const Tensor& logits) {
      losses.slice(0, begin, end)
          .copy_from(ops::cross_entropy(logits, targets_.slice(0, begin, end)).losses);
    });
    return losses;
  }

  // The losses and, into `out`, the wanted gradients of scale · Σ losses.
  Tensor losses_and_gradients(LinearCrossEntropy& out, bool for_dx, bool for_dw,
                              const Tensor& scale) {
    const LinearRecipe& r = recipe_;
    const Device device = targets_.device();
    Tensor losses = Tensor::empty({tokens_}, wide(), device);
    Value dgrad_w;
    if (for_dx) {
      dgrad_w = encode_dgrad_weight(weight_, r, w_key_, dtype_);
      out.dx = Tensor::empty({tokens_, width_}, dtype_, device);
    }
    if (for_dw) {
      if (!has_wgrad_x_) wgrad_x_ = encode_wgrad_input(rows_, r, x_key_);
      const MemoryScope scope{"logits"};
      out.dw = Tensor::empty({vocab_, width_}, wide(), device);
      if (tokens_ == 0) out.dw.fill(0);
    }
    std::int64_t index = 0;
    each_chunk([&](std::int64_t begin, std::int64_t end, Tensor& logits) {
      const Tensor targets = targets_.slice(0, begin, end);
      Tensor part_losses = losses.slice(0, begin, end);
      const EncodedGradient dy =
          encode(logits, targets, scale, random_key(fmt::format("dlogits.{}", index++)), for_dx,
                 for_dw, part_losses);
      if (for_dx) {
        Tensor part = out.dx.slice(0, begin, end);
        matmul_nt_into(part, dy.for_dx, dgrad_w, r.dgrad.mode, false, r.dgrad.accumulation);
      }
      if (for_dw)
        matmul_nt_into(out.dw, dy.for_dw, slice_cols(wgrad_x_, begin, end), r.wgrad.mode, begin > 0,
                       r.wgrad.accumulation);
    });
    if (exact_target_) add_target_terms(out, losses, scale);
    return losses;
  }

 private:
  // What dlogits were encoded without: a token's own target has (p − 1) · scale there, and p is
  // e^(−loss). Of fprop's operands, whose codes lie by row, but of values where the product reads
  // values.
  void add_target_terms(LinearCrossEntropy& out, const Tensor& losses, const Tensor& scale) const {
    const MemoryScope scope{"logits"};
    const Tensor p = ops::exp(ops::affine(losses, -1));
    const Tensor term = ops::mul(ops::affine(p, 1, -1), scale);
    const Device device = targets_.device();
    if (out.dx.defined()) {
      const Rows w(recipe_.dgrad.rhs.empty() ? Value(weight_.dense(dtype_)) : fprop_w_);
      NIBBLE_DISPATCH(device, quant_gather_rows(out.dx, targets_, term, w.x, w.steps));
    }
    if (out.dw.defined()) {
      const Rows x(recipe_.wgrad.rhs.empty() ? Value(rows_) : fprop_x_);
      NIBBLE_DISPATCH(device, quant_scatter_rows(out.dw, targets_, term, x.x, x.steps));
    }
  }

  // x as fprop and, where one pass makes both, as wgrad read it.
  void encode(const Var& x) {
    const GemmRecipe& f = recipe_.fprop;
    const auto* encoded = std::get_if<Encoded>(&x.value());
    std::optional<Encoded> own;
    if (!encoded || encoded->dense().defined()) rows_ = ops::contiguous(x.tensor()).flatten_rows();
    if (!encoded) {
      own = encode_input(rows_, weight_, recipe_);
      if (own) encoded = &*own;
    }
    const bool reads_codes = encoded && f.mode == Mode::Real && f.lhs.quant;
    const QTensor* ready = reads_codes ? encoded->find(*f.lhs.quant) : nullptr;
    const QTensor* ready_t = encoded && recipe_.wgrad.rhs.quant
                                 ? encoded->find(*recipe_.wgrad.rhs.quant, true)
                                 : nullptr;
    fprop_x_ =
        ready ? Value(*ready) : encode_operand(rows_, f.lhs, f.mode, x_key_, false, "fprop.lhs");
    fprop_w_ = encode_weight(weight_, f.rhs, f.mode, w_key_, false, dtype_, "fprop.rhs");
    if (ready_t) wgrad_x_ = *ready_t;
    has_wgrad_x_ = ready_t != nullptr;
  }

  // dlogits of a chunk as both products read it, and its losses; `logits` may be overwritten.
  EncodedGradient encode(Tensor& logits, const Tensor& targets, const Tensor& scale,
                         const RngKey& key, bool for_dx, bool for_dw, Tensor& losses) const {
    if (for_dx && for_dw)
      if (const auto wanted = wanted_of_gradient(recipe_, key, nullptr))
        if (auto e = encode_dlogits(losses, logits, targets, scale, !exact_target_, *wanted))
          return {std::move(e->by_row), std::move(e->by_column), {}};
    losses.copy_from(ops::cross_entropy_gradient(logits, targets, scale));
    if (exact_target_) NIBBLE_DISPATCH(logits.device(), zero_along_last(logits, targets));
    return encode_gradient(logits, recipe_, key, for_dx, for_dw, nullptr);
  }

  // fn(begin, end, logits [end − begin, V]) for every chunk.
  template <class F>
  void each_chunk(F&& fn) {
    const GemmRecipe& f = recipe_.fprop;
    const MemoryScope scope{"logits"};
    for (std::int64_t begin = 0; begin < tokens_; begin += chunk_) {
      const std::int64_t end = std::min(begin + chunk_, tokens_);
      Tensor logits =
          matmul_nt(slice_rows(fprop_x_, begin, end), fprop_w_,
                    {.mode = f.mode, .out = dtype_, .bias = {}, .accumulation = f.accumulation});
      fn(begin, end, logits);
    }
  }

  Parameter& weight_;
  const LinearRecipe& recipe_;
  DType dtype_;
  std::int64_t width_, vocab_ = 0, tokens_ = 0, chunk_ = 0;
  Tensor rows_, targets_;  // rows_: x [M, C], undefined where it exists as codes alone
  RngKey x_key_, w_key_;
  Value fprop_x_, fprop_w_, wgrad_x_;
  bool has_wgrad_x_ = false, exact_target_ = false;
};

bool wants_gradient(const Var& v) {
  const Var* const inputs[] = {&v};
  return Tape::any_tracked(inputs);
}

}  // namespace

Tensor classifier_losses(const Tensor& x, Parameter& weight, const Tensor& targets,
                         const LinearRecipe& recipe, const ClassifierOptions& options) {
  return Classifier(x, weight, targets, recipe, options).losses();
}

Var linear_cross_entropy(const Var& x, Parameter& weight, const Tensor& targets,
                         const LinearRecipe& recipe, const ClassifierOptions& options) {
  Classifier classifier(x, weight, targets, recipe, options);
  const DType wide = classifier.wide();
  const Tensor one = Tensor::full({}, 1, wide, classifier.targets().device());
  // 1 / max(count, 1): a batch without targets has loss 0.
  const Tensor inverse_count =
      ops::div(one, ops::maximum(ops::sum(counted(classifier.targets(), wide)), one));
  const Var weight_var(weight);
  const bool for_dx = Tape::active() && wants_gradient(x),
             for_dw = Tape::active() && wants_gradient(weight_var);
  LinearCrossEntropy gradients;
  const Tensor losses =
      for_dx || for_dw ? classifier.losses_and_gradients(gradients, for_dx, for_dw, inverse_count)
                       : classifier.losses();
  const Tensor loss = ops::mul(ops::sum(losses), inverse_count);
  return record<LinearCrossEntropy>({&x, &weight_var}, loss, [&] { return std::move(gradients); });
}

bool takes_targets_out(const LinearRecipe& recipe) {
  return recipe.exact_target && !(recipe.dgrad.lhs.empty() && recipe.wgrad.lhs.empty());
}

std::optional<Wanted> wanted_of_classifier_input(const Parameter& weight, LinearRecipe recipe) {
  if (recipe.save == Save::Recompute) recipe.save = Save::Encoded;
  return wanted_of_input(weight, recipe);
}

}  // namespace nibble
