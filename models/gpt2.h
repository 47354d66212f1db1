// GPT-2 (Radford et al. 2019): pre-norm transformer, learned positions, tanh GELU, tied embeddings.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "models/language_model.h"
#include "nn/layers.h"
#include "quant/recipe.h"

namespace nibble {

// What blocks make again in backward instead of keeping it; the bits stay, each level spares more.
enum class Recompute : std::uint8_t {
  None,      // as the recipe's layers have it
  Inputs,    // what linears read of norms and GELU (save=recompute)
  Mlp,       // and GELU's input, by the product that made it
  Products,  // and attention's Q, K and V likewise
  Sums,      // and the sum behind attention
};

struct Gpt2Config {
  std::int64_t vocab = 50257;
  std::int64_t context = 1024;
  std::int64_t layers = 12, heads = 12, width = 768;
  double embedding_dropout = 0, attention_dropout = 0, residual_dropout = 0;
  bool tie_embeddings = true;  // a Recipe may override it
  double norm_epsilon = 1e-5;
  double init_std = 0.02;  // of weights; 0.02 makes the logits of a wide model start too large
  ops::Gelu gelu = ops::Gelu::Tanh;
  std::int64_t token_chunk = 0;    // rows of logits that exist at a time; 0: autograd/linear.h
  bool checkpoint_blocks = false;  // keep each block's input only; recompute the rest in backward
  Recompute recompute = Recompute::None;
  std::int64_t recompute_blocks = -1;  // how many blocks go beyond Inputs; negative: all
  DType compute = DType::F32;          // of activations

  // "gpt2" (124M), "gpt2-medium", "gpt2-large", "gpt2-xl"; throws Error("gpt2") for others.
  static Gpt2Config named(std::string_view name);
  void validate() const;
  // Throws Error("recipe") where a layer pattern of the recipe matches no linear layer, so that a
  // misspelt one is not trained without; names the layers.
  void check_layers(const Recipe& recipe) const;
};

class Gpt2 : public LanguageModel {
 public:
  // Parameters are drawn from (seed, name): N(0, init_std²), residual projections
  // N(0, init_std² / 2·layers). `store` puts each into the form in which it is kept before the next
  // one is drawn, so that the whole model is never there in F32.
  using Store = std::function<void(Parameter&)>;
  Gpt2(const Gpt2Config& config, const Recipe& recipe, std::uint64_t seed, Device device = kCpu,
       const Store& store = {});

  Var hidden(const Tensor& ids);  // [B, T] → [B, T, C], after the last norm
  Var loss(const Tensor& ids, const Tensor& targets) override;
  Tensor token_losses(const Tensor& ids, const Tensor& targets) override;
  Tensor next_logits(const Tensor& ids) override;
  KvCache make_cache(std::int64_t batch, std::int64_t capacity) override;
  Tensor extend(const Tensor& ids, KvCache& cache) override;
  Tensor logits(const Tensor& ids);  // [B, T, V], F32; nothing is recorded
  void visit(Visitor& v) override;
  std::int64_t context() const override { return config_.context; }
  std::int64_t vocab() const override { return config_.vocab; }
  double flops_per_token(std::int64_t sequence) const override;
  const Gpt2Config& config() const { return config_; }

  // What blocks hand on: x + r, which the reader forms as it forms the norm.
  struct Stream {
    Var x;
    std::optional<Var> r{};               // nothing before the first block
    const std::string* module = nullptr;  // whose the sum is
  };
  class Block : public Module {
   public:
    Block(const Gpt2Config& config, const Recipe& recipe, const std::string& path);
    Stream operator()(Stream in);
    Var extend(const Var& x, KvCache::Layer& layer, std::int64_t length);
    void visit(Visitor& v) override;
    LayerNorm ln1;
    SelfAttention attn;
    LayerNorm ln2;
    Mlp mlp;
    Dropout attn_dropout, mlp_dropout;
  };

 private:
  void initialise(std::uint64_t seed, Device device, const Store& store);
  Var embed(const Tensor& ids, std::int64_t first_position);
  Stream stream(const Tensor& ids);  // what the last norm reads
  Parameter& head_weight() { return lm_head_ ? lm_head_->weight : wte_.weight; }
  Tensor project(const Tensor& hidden_rows);

  Gpt2Config config_;
  Embedding wte_, wpe_;
  Dropout embedding_dropout_;
  std::vector<std::unique_ptr<Block>> blocks_;
  LayerNorm ln_f_;
  Tensor positions_;               // I32 [context]: uploaded once
  std::optional<Linear> lm_head_;  // absent when tied: wte_.weight serves
  LinearRecipe head_recipe_;
  std::string head_path_ = "lm_head";
};

}  // namespace nibble
