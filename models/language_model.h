// What the training apps ask of a language model.
#pragma once

#include <cstdint>
#include <string>

#include "autograd/tape.h"
#include "nn/layers.h"
#include "nn/module.h"

namespace nibble {

class LanguageModel : public Module {
 public:
  // Mean next-token loss (nats) of ids [B, T] against targets [B, T] (−1 = ignored), both I32.
  virtual Var loss(const Tensor& ids, const Tensor& targets) = 0;
  // Losses of the positions, [B·T] in F32, 0 where ignored. Nothing is recorded.
  virtual Tensor token_losses(const Tensor& ids, const Tensor& targets) = 0;
  // Logits [B, V] after the last position of ids [B, T], in F32. Nothing is recorded.
  virtual Tensor next_logits(const Tensor& ids) = 0;
  // The same token by token: an empty cache for up to `capacity` (≤ context()) tokens of each of
  // `batch` sequences, and logits [B, V] after reading ids [B, T] behind what the cache holds.
  virtual KvCache make_cache(std::int64_t batch, std::int64_t capacity) = 0;
  virtual Tensor extend(const Tensor& ids, KvCache& cache) = 0;
  virtual std::int64_t context() const = 0;
  virtual std::int64_t vocab() const = 0;
  // Floating-point operations of a training step a token (forward and backward), by the usual
  // count: 6 a weight of a product, and attention's 12·L·T·C halved for causality.
  virtual double flops_per_token(std::int64_t sequence) const = 0;
  // For the optimizer: whether weight decay applies (matrices and embeddings, not biases or norms).
  virtual bool decays(const Parameter& p) const { return p.shape().rank() >= 2; }
};

}  // namespace nibble
