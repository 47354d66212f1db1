// The layers of transformers. Weights are F32 unless said otherwise; they start uninitialised: a
// model initialises its parameters by name (nn/init.h), so that their values don't depend on
// building order.
#pragma once

#include <optional>
#include <vector>

#include "autograd/linear.h"
#include "autograd/ops.h"
#include "nn/module.h"

namespace nibble {

struct LinearOptions {
  bool bias = true;
  LinearRecipe recipe{};
  DType dtype = DType::F32;  // of the stored weight and bias
  Device device = kCpu;
};

// y[..., out] = x[..., in]·Wᵀ + b.
class Linear : public Module {
 public:
  Linear(std::int64_t in, std::int64_t out, const LinearOptions& options = {});
  Var operator()(const Var& x);
  // What it wants of the x that comes next, for whoever makes it (autograd/wanted.h).
  std::optional<Wanted> wanted() const;
  void visit(Visitor& v) override;

  Parameter weight;  // [out, in]
  std::optional<Parameter> bias;
  LinearRecipe recipe;
};

// Rows of a table.
class Embedding : public Module {
 public:
  Embedding(std::int64_t rows, std::int64_t width, DType dtype = DType::F32, Device device = kCpu);
  Var operator()(const Tensor& ids);
  void visit(Visitor& v) override;

  Parameter weight;  // [rows, width]
};

class LayerNorm : public Module {
 public:
  explicit LayerNorm(std::int64_t width, double epsilon = 1e-5, DType dtype = DType::F32,
                     Device device = kCpu);
  Var operator()(const Var& x, const std::optional<Wanted>& wanted = {});
  // x + r, recorded under the caller's module, and its norm.
  AddedNorm after_add(const Var& x, const Var& r, const std::optional<Wanted>& wanted = {});
  void visit(Visitor& v) override;

  Parameter weight, bias;  // [width], 1 and 0
  double epsilon;
};

class RmsNorm : public Module {
 public:
  explicit RmsNorm(std::int64_t width, double epsilon = 1e-6, DType dtype = DType::F32,
                   Device device = kCpu);
  Var operator()(const Var& x);
  void visit(Visitor& v) override;

  Parameter weight;
  double epsilon;
};

class Dropout : public Module {
 public:
  explicit Dropout(double p);
  Var operator()(const Var& x);
  void visit(Visitor&) override {}

  double p;
};

// Keys and values of the tokens that a model has read, so that generation reads each token once.
struct KvCache {
  struct Layer {
    Tensor keys, values;  // [B, capacity, H, D]
  };
  std::vector<Layer> layers;
  std::int64_t length = 0;  // tokens read so far
  std::int64_t capacity() const { return layers.empty() ? 0 : layers.front().keys.size(1); }
};

// Multi-head causal self-attention with packed projections: qkv [3C, C], proj [C, C].
class SelfAttention : public Module {
 public:
  SelfAttention(std::int64_t width, int heads, double dropout_p, const LinearOptions& qkv_options,
                const LinearOptions& proj_options);
  Var operator()(const Var& x);
  // x [B, T, C] are the tokens after the `length` that `layer` holds; they are added to it. Nothing
  // is recorded, nothing dropped.
  Var extend(const Var& x, KvCache::Layer& layer, std::int64_t length);
  void visit(Visitor& v) override;

  Linear qkv, proj;
  int heads;
  double dropout_p;
};

// fc2(gelu(fc1(x))), hidden width 4C by convention.
class Mlp : public Module {
 public:
  Mlp(std::int64_t width, std::int64_t hidden, ops::Gelu gelu, const LinearOptions& fc1_options,
      const LinearOptions& fc2_options);
  Var operator()(const Var& x);
  void visit(Visitor& v) override;

  Linear fc1, fc2;
  ops::Gelu gelu_kind;
};

}  // namespace nibble
