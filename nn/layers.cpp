#include "nn/layers.h"

#include "autograd/context.h"

namespace nibble {

Linear::Linear(std::int64_t in, std::int64_t out, const LinearOptions& options)
    : weight(Tensor::empty({out, in}, options.dtype, options.device)), recipe(options.recipe) {
  validate(recipe);
  if (options.bias) bias.emplace(Tensor::empty({out}, options.dtype, options.device));
}
Var Linear::operator()(const Var& x) {
  const ModuleScope scope(path());
  return linear(x, weight, bias ? &*bias : nullptr, recipe);
}
std::optional<Wanted> Linear::wanted() const {
  const ModuleScope scope(path());
  return wanted_of_input(weight, recipe);
}
void Linear::visit(Visitor& v) {
  v.parameter("weight", weight);
  if (bias) v.parameter("bias", *bias);
}

Embedding::Embedding(std::int64_t rows, std::int64_t width, DType dtype, Device device)
    : weight(Tensor::empty({rows, width}, dtype, device)) {}
Var Embedding::operator()(const Tensor& ids) {
  const ModuleScope scope(path());
  return embedding(ids, weight);
}
void Embedding::visit(Visitor& v) { v.parameter("weight", weight); }

LayerNorm::LayerNorm(std::int64_t width, double eps, DType dtype, Device device)
    : weight(Tensor::full({width}, 1, dtype, device)),
      bias(Tensor::zeros({width}, dtype, device)),
      epsilon(eps) {}
Var LayerNorm::operator()(const Var& x, const std::optional<Wanted>& wanted) {
  const ModuleScope scope(path());
  return layer_norm(x, weight, &bias, epsilon, wanted);
}
AddedNorm LayerNorm::after_add(const Var& x, const Var& r, const std::optional<Wanted>& wanted) {
  return add_layer_norm(x, r, weight, &bias, epsilon, wanted, path());
}
void LayerNorm::visit(Visitor& v) {
  v.parameter("weight", weight);
  v.parameter("bias", bias);
}

RmsNorm::RmsNorm(std::int64_t width, double eps, DType dtype, Device device)
    : weight(Tensor::full({width}, 1, dtype, device)), epsilon(eps) {}
Var RmsNorm::operator()(const Var& x) {
  const ModuleScope scope(path());
  return rms_norm(x, weight, epsilon);
}
void RmsNorm::visit(Visitor& v) { v.parameter("weight", weight); }

Dropout::Dropout(double probability) : p(probability) {
  NIBBLE_CHECK(p >= 0 && p < 1, "dropout", "got p = {}, expected [0, 1)", p);
}
Var Dropout::operator()(const Var& x) {
  const ModuleScope scope(path());
  return dropout(x, p);
}

SelfAttention::SelfAttention(std::int64_t width, int head_count, double p,
                             const LinearOptions& qkv_options, const LinearOptions& proj_options)
    : qkv(width, 3 * width, qkv_options),
      proj(width, width, proj_options),
      heads(head_count),
      dropout_p(p) {
  NIBBLE_CHECK(heads > 0 && width % heads == 0, "attention",
               "got width {} and {} heads, expected a multiple", width, heads);
}
Var SelfAttention::operator()(const Var& x) {
  const Var packed = qkv(x);
  const Var mixed = [&] {
    const ModuleScope scope(path());
    return self_attention(packed, heads, true, dropout_p, proj.wanted());
  }();
  return proj(mixed);
}
Var SelfAttention::extend(const Var& x, KvCache::Layer& layer, std::int64_t length) {
  const Tensor packed = qkv(x).tensor();
  const std::int64_t batch = packed.size(0), count = packed.size(1), width = packed.size(2) / 3;
  const Tensor parts = packed.view({batch, count, 3, heads, width / heads});
  layer.keys.slice(1, length, length + count).copy_from(parts.select(2, 1));
  layer.values.slice(1, length, length + count).copy_from(parts.select(2, 2));
  const Tensor mixed = ops::attention(parts.select(2, 0), layer.keys.slice(1, 0, length + count),
                                      layer.values.slice(1, 0, length + count), AttentionOptions{})
                           .out;
  return proj(Var(mixed.view({batch, count, width})));
}
void SelfAttention::visit(Visitor& v) {
  v.module("qkv", qkv);
  v.module("proj", proj);
}

Mlp::Mlp(std::int64_t width, std::int64_t hidden, ops::Gelu kind, const LinearOptions& fc1_options,
         const LinearOptions& fc2_options)
    : fc1(width, hidden, fc1_options), fc2(hidden, width, fc2_options), gelu_kind(kind) {}
Var Mlp::operator()(const Var& x) {
  const Var hidden = fc1(x);
  const Var activated = [&] {
    const ModuleScope scope(path());
    return gelu(hidden, gelu_kind, fc2.wanted());
  }();
  return fc2(activated);
}
void Mlp::visit(Visitor& v) {
  v.module("fc1", fc1);
  v.module("fc2", fc2);
}

}  // namespace nibble
