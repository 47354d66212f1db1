#include "models/gpt2.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "autograd/checkpoint.h"
#include "autograd/context.h"
#include "nn/init.h"
#include "quant/words.h"

namespace nibble {
namespace {

struct Size {
  std::string_view name;
  std::int64_t layers, heads, width;
};
constexpr std::array<Size, 4> kSizes{{{"gpt2", 12, 12, 768},
                                      {"gpt2-medium", 24, 16, 1024},
                                      {"gpt2-large", 36, 20, 1280},
                                      {"gpt2-xl", 48, 25, 1600}}};

// A block's linear layers, behind its path.
constexpr const char *kQkv = ".attn.qkv", *kProj = ".attn.proj", *kFc1 = ".mlp.fc1",
                     *kFc2 = ".mlp.fc2";
constexpr std::array kLinear{kQkv, kProj, kFc1, kFc2};

// Layers are names and shapes until initialise() gives them values.
LinearOptions options_of(const Recipe& recipe, const std::string& path, bool bias) {
  return {.bias = bias, .recipe = recipe.at(path), .dtype = DType::F32, .device = kMeta};
}

// The stream as one tensor, and its norm.
AddedNorm norm_of(Gpt2::Stream s, LayerNorm& norm, const std::optional<Wanted>& wanted) {
  if (!s.r) return {s.x, norm(s.x, wanted)};
  const ModuleScope scope(*s.module);
  return norm.after_add(s.x, *s.r, wanted);
}

// A layer of a block; `output`: from which level on its result is made again.
LinearOptions block_options(const Gpt2Config& c, const Recipe& recipe, const std::string& path,
                            std::optional<Recompute> output = {}) {
  LinearOptions o = options_of(recipe, path, true);
  if (c.recompute >= Recompute::Inputs) o.recipe.save = Save::Recompute;
  if (output && c.recompute >= *output) o.recipe.keep_output = false;
  return o;
}

}  // namespace

Gpt2Config Gpt2Config::named(std::string_view name) {
  for (const Size& s : kSizes) {
    if (s.name != name) continue;
    Gpt2Config c;
    c.layers = s.layers, c.heads = s.heads, c.width = s.width;
    return c;
  }
  fail("gpt2", "unknown size: got '{}', expected gpt2, gpt2-medium, gpt2-large or gpt2-xl", name);
}

void Gpt2Config::check_layers(const Recipe& recipe) const {
  for (const auto& [pattern, linear] : recipe.overrides) {
    const auto names = [&, &p = pattern](const std::string& path) {
      return words::matches(p, path);
    };
    bool found = names("lm_head");
    for (std::int64_t i = 0; i < layers && !found; ++i)
      found = std::ranges::any_of(
          kLinear, [&](const char* name) { return names(fmt::format("blocks.{}{}", i, name)); });
    if (found) continue;
    std::vector<std::string> kinds;
    for (const char* name : kLinear) kinds.push_back(fmt::format("blocks.*{}", name));
    kinds.emplace_back("lm_head");
    fail("recipe", "{}: layer pattern '{}' matches no layer, expected one of {}{}", recipe.name,
         pattern, fmt::join(kinds, ", "), words::suggestion(pattern, kinds));
  }
}

void Gpt2Config::validate() const {
  NIBBLE_CHECK(
      vocab > 0 && context > 0 && layers > 0 && heads > 0 && width > 0, "gpt2",
      "every extent must be positive: got vocab {}, context {}, layers {}, heads {}, width {}",
      vocab, context, layers, heads, width);
  // Products of any three but the vocabulary stay in 64 bits, whatever a file says.
  constexpr std::int64_t kMost = std::int64_t{1} << 20;
  NIBBLE_CHECK(
      std::max({context, layers, heads, width}) <= kMost && vocab <= 16 * kMost, "gpt2",
      "got vocab {}, context {}, layers {}, heads {}, width {}, expected at most {}, and {} "
      "tokens",
      vocab, context, layers, heads, width, kMost, 16 * kMost);
  NIBBLE_CHECK(init_std >= 0 && std::isfinite(init_std), "gpt2",
               "got init_std {}, expected a number of at least 0", init_std);
  NIBBLE_CHECK(width % heads == 0, "gpt2", "got width {} and {} heads, expected a multiple", width,
               heads);
}

Gpt2::Block::Block(const Gpt2Config& c, const Recipe& recipe, const std::string& path)
    : ln1(c.width, c.norm_epsilon, DType::F32, kMeta),
      attn(c.width, static_cast<int>(c.heads), c.attention_dropout,
           block_options(c, recipe, path + kQkv, Recompute::Products),
           block_options(c, recipe, path + kProj, Recompute::Sums)),
      ln2(c.width, c.norm_epsilon, DType::F32, kMeta),
      mlp(c.width, 4 * c.width, c.gelu, block_options(c, recipe, path + kFc1, Recompute::Mlp),
          block_options(c, recipe, path + kFc2)),
      attn_dropout(c.residual_dropout),
      mlp_dropout(c.residual_dropout) {}

Gpt2::Stream Gpt2::Block::operator()(Stream in) {
  AddedNorm here = norm_of(std::move(in), ln1, attn.qkv.wanted());
  const ModuleScope scope(path());  // the sums are the block's own
  here = ln2.after_add(here.sum, attn_dropout(attn(here.norm)), mlp.fc1.wanted());
  return {here.sum, mlp_dropout(mlp(here.norm)), &path()};
}

Var Gpt2::Block::extend(const Var& x, KvCache::Layer& layer, std::int64_t length) {
  const Var h = x + attn.extend(ln1(x), layer, length);
  return h + mlp(ln2(h));
}

void Gpt2::Block::visit(Visitor& v) {
  v.module("ln1", ln1);
  v.module("attn", attn);
  v.module("attn_dropout", attn_dropout);
  v.module("ln2", ln2);
  v.module("mlp", mlp);
  v.module("mlp_dropout", mlp_dropout);
}

namespace {

Tensor positions_of(std::int64_t context, Device device) {
  const MemoryScope scope("batch");  // inputs, though the same in every step
  return Tensor::arange(context, DType::I32, device);
}

}  // namespace

Gpt2::Gpt2(const Gpt2Config& config, const Recipe& recipe, std::uint64_t seed, Device device,
           const Store& store)
    : config_((config.validate(), config)),
      wte_(config.vocab, config.width, DType::F32, kMeta),
      wpe_(config.context, config.width, DType::F32, kMeta),
      embedding_dropout_(config.embedding_dropout),
      ln_f_(config.width, config.norm_epsilon, DType::F32, kMeta),
      positions_(positions_of(config.context, device)),
      head_recipe_(recipe.at("lm_head")) {
  config_.tie_embeddings = recipe.tie_embeddings.value_or(config.tie_embeddings);
  for (std::int64_t i = 0; i < config.layers; ++i) {
    Gpt2Config c = config;
    if (c.recompute_blocks >= 0 && i >= c.recompute_blocks)
      c.recompute = std::min(c.recompute, Recompute::Inputs);
    blocks_.push_back(std::make_unique<Block>(c, recipe, fmt::format("blocks.{}", i)));
  }
  if (!config_.tie_embeddings)
    lm_head_.emplace(config.width, config.vocab, options_of(recipe, "lm_head", false));
  validate(head_recipe_);
  assign_paths(*this);
  initialise(seed, device, store);
}

void Gpt2::initialise(std::uint64_t seed, Device device, const Store& store) {
  const double deviation = config_.init_std;
  const double residual = deviation / std::sqrt(2.0 * static_cast<double>(config_.layers));
  for (Parameter* p : parameters(*this)) {
    const std::string& name = p->name;
    p->set_value(Tensor::empty(p->shape(), DType::F32, device));
    if (p->shape().rank() == 2) {
      const bool projects = name.ends_with("attn.proj.weight") || name.ends_with("mlp.fc2.weight");
      init_normal(*p, 0, projects ? residual : deviation, seed);
    } else if (name.ends_with(".bias")) {
      init_constant(*p, 0);
    } else {
      init_constant(*p, 1);  // norm gains
    }
    if (store) store(*p);
  }
}

Var Gpt2::embed(const Tensor& ids, std::int64_t first_position) {
  NIBBLE_CHECK(ids.dtype() == DType::I32 && ids.rank() == 2, "gpt2",
               "got ids {}, expected i32[B, T]", describe(ids));
  const std::int64_t end = first_position + ids.size(1);
  NIBBLE_CHECK(end <= config_.context, "gpt2", "got {} tokens, expected at most the context of {}",
               end, config_.context);
  const Var x = wte_(ids) + wpe_(positions_.slice(0, first_position, end));
  return x.dtype() != config_.compute && x.dtype() != DType::F64 ? cast(x, config_.compute) : x;
}

Gpt2::Stream Gpt2::stream(const Tensor& ids) {
  Stream at{embedding_dropout_(embed(ids, 0))};
  for (const auto& block : blocks_) {
    if (!config_.checkpoint_blocks) {
      at = (*block)(std::move(at));
      continue;
    }
    // What is kept is one tensor: such a block forms its last sum itself.
    const auto whole = [b = block.get()](const Var& x) {
      const Stream out = (*b)({x});
      const ModuleScope scope(*out.module);
      return out.x + *out.r;
    };
    at = {checkpoint(whole, at.x)};
  }
  return at;
}

Var Gpt2::hidden(const Tensor& ids) { return norm_of(stream(ids), ln_f_, {}).norm; }

Var Gpt2::loss(const Tensor& ids, const Tensor& targets) {
  Stream last = stream(ids);
  const auto wanted = [&] {
    const ModuleScope scope(head_path_);
    return wanted_of_classifier_input(head_weight(), head_recipe_);
  };
  const Var h = norm_of(std::move(last), ln_f_, wanted()).norm;
  const ModuleScope scope(head_path_);
  return linear_cross_entropy(h, head_weight(), targets, head_recipe_,
                              {.token_chunk = config_.token_chunk});
}

Tensor Gpt2::token_losses(const Tensor& ids, const Tensor& targets) {
  const NoGrad no_grad;
  const Tensor h = hidden(ids).tensor();
  const ModuleScope scope(head_path_);
  return classifier_losses(h, head_weight(), targets, head_recipe_,
                           {.token_chunk = config_.token_chunk});
}

Tensor Gpt2::project(const Tensor& rows) {
  const ModuleScope scope(head_path_);
  const Var y = linear(rows, head_weight(), nullptr, head_recipe_);
  return y.tensor().to(DType::F32);
}

Tensor Gpt2::logits(const Tensor& ids) {
  const NoGrad no_grad;
  const Tensor h = hidden(ids).tensor();
  return project(h.flatten_rows()).view({ids.size(0), ids.size(1), config_.vocab});
}

Tensor Gpt2::next_logits(const Tensor& ids) {
  const NoGrad no_grad;
  const Tensor h = hidden(ids).tensor();
  return project(ops::contiguous(h.select(1, ids.size(1) - 1)));
}

KvCache Gpt2::make_cache(std::int64_t batch, std::int64_t capacity) {
  NIBBLE_CHECK(batch > 0 && capacity > 0 && capacity <= config_.context, "gpt2",
               "got a cache for {} sequences of {} tokens, expected at most the context of {}",
               batch, capacity, config_.context);
  KvCache cache;
  const Device device = wte_.weight.device();
  const Shape shape{batch, capacity, config_.heads, config_.width / config_.heads};
  const MemoryScope scope{"kv cache"};
  for (std::size_t i = 0; i < blocks_.size(); ++i)
    cache.layers.push_back({Tensor::empty(shape, config_.compute, device),
                            Tensor::empty(shape, config_.compute, device)});
  return cache;
}

Tensor Gpt2::extend(const Tensor& ids, KvCache& cache) {
  const NoGrad no_grad;
  NIBBLE_CHECK(cache.layers.size() == blocks_.size() &&
                   cache.length + ids.size(1) <= cache.capacity() && ids.size(1) > 0,
               "gpt2", "got {} tokens after {}, expected 1 up to the cache's {}", ids.size(1),
               cache.length, cache.capacity());
  Var x = embed(ids, cache.length);
  for (std::size_t i = 0; i < blocks_.size(); ++i)
    x = blocks_[i]->extend(x, cache.layers[i], cache.length);
  cache.length += ids.size(1);
  const Tensor last = ops::contiguous(x.tensor().select(1, ids.size(1) - 1));
  return project(ln_f_(last).tensor());
}

void Gpt2::visit(Visitor& v) {
  v.module("wte", wte_);
  v.module("wpe", wpe_);
  v.module("embedding_dropout", embedding_dropout_);
  for (std::size_t i = 0; i < blocks_.size(); ++i)
    v.module(fmt::format("blocks.{}", i), *blocks_[i]);
  v.module("ln_f", ln_f_);
  if (lm_head_) v.module("lm_head", *lm_head_);
}

double Gpt2::flops_per_token(std::int64_t sequence) const {
  const auto c = static_cast<double>(config_.width), l = static_cast<double>(config_.layers);
  const double weights = l * 12 * c * c + c * static_cast<double>(config_.vocab);
  return 6 * weights + 6 * l * c * static_cast<double>(sequence);
}

}  // namespace nibble
