// Recipes: which operand of which product is encoded how. Plain data, validated when made, written
// into run folders and checkpoints as text.
//
//   fprop  y[M,N]  = nt(x[M,K],  w[N,K])     contraction K
//   dgrad  dx[M,K] = nt(dy[M,N], wᵀ[K,N])    contraction N
//   wgrad  dw[N,K] = nt(dyᵀ[N,M], xᵀ[K,M])   contraction M
//
// Every spec is stated in its own product's [outer, contraction] orientation.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "quant/qtensor.h"

namespace nibble {

// A user's quantizer for any operand slot of a Simulated product (design.md, amendment 26).
// Stateless and deterministic: what it draws comes from the key. `x` is the [outer, contraction]
// matrix.
class CustomQuantizer {
 public:
  virtual ~CustomQuantizer() = default;
  virtual std::string name() const = 0;  // its word in configs, parameters included
  virtual Tensor fake_quantize(const Tensor& x, const RngKey& key) const = 0;
  // Gradient through it; the default is straight-through.
  virtual Tensor backward(const Tensor& dy, const Tensor& /*x*/) const { return dy; }
};

// ReuseForward (dgrad.rhs, wgrad.rhs): the codes that fprop made of the same tensor, transposed.
enum class Source : std::uint8_t { Requantize, ReuseForward };

struct Encoding {
  std::optional<QuantSpec> quant;
  Source source = Source::Requantize;
  std::shared_ptr<const CustomQuantizer> custom;
  bool empty() const { return !quant && !custom && source == Source::Requantize; }
  bool operator==(const Encoding&) const = default;
};

struct GemmRecipe {
  Encoding lhs, rhs;
  Mode mode = Mode::Simulated;
  Accumulation accumulation = Accumulation::Full;  // Fast: of Real products of small floats only
  bool empty() const { return lhs.empty() && rhs.empty(); }
  bool operator==(const GemmRecipe&) const = default;
};

// What a linear keeps for wgrad: x itself, wgrad's encoding of it, or what x was made of where that
// is kept anyway (the sums that layer norm reads, GELU's input, attention's output), so that x or
// its codes are made again in backward; elsewhere Recompute is Encoded, or Original without codes.
enum class Save : std::uint8_t { Original, Encoded, Recompute };

struct LinearRecipe {
  std::string name = "none";
  GemmRecipe fprop, dgrad, wgrad;
  Save save = Save::Original;
  // Off: y is not kept for the operation that reads it (GELU, attention): the product is formed
  // again in backward.
  bool keep_output = true;
  bool fuse = true;  // producers of x and dy encode them where they can; the bits are the same
  // A classifier's dlogits, softmax − onehot, are encoded without each token's own target, whose
  // term of both gradients is added in floats (linear_cross_entropy). It is most of a row's range.
  bool exact_target = false;
  bool empty() const { return fprop.empty() && dgrad.empty() && wgrad.empty(); }
  bool operator==(const LinearRecipe&) const = default;
};

// Throws Error("recipe") naming recipe, product and operand: Real products whose scales do not
// factor out or whose families differ, fast accumulation where there is none, ReuseForward where
// fprop encodes nothing or its codes don't fit, Save::Encoded without an encoding of wgrad.rhs,
// stochastic codes in fprop of an evaluation, …
void validate(const LinearRecipe& recipe);

// Moments of the optimizer: encoded storage, or the study's simulated form (quantize at the start
// of the step, keep f32).
struct MomentRecipe {
  std::string m, v;  // spec text, "" = f32, or a registered codec's name
  bool simulated = false;
  bool operator==(const MomentRecipe&) const = default;
};

enum class WeightStorage : std::uint8_t { F32, BF16, Int8 };  // master copy; bf16 or int8 with SR

// A whole model's recipe: a default, per-layer overrides, and what lies outside linear layers.
struct Recipe {
  std::string name = "none";
  LinearRecipe linear;
  // First match wins; `*` and `?` match within a module path such as "blocks.3.mlp.fc1".
  std::vector<std::pair<std::string, LinearRecipe>> overrides;
  bool quantize_lm_head = false;
  std::optional<bool> tie_embeddings;  // overrides the model's own
  MomentRecipe moments;
  WeightStorage weights = WeightStorage::F32;

  // The recipe of the linear at `path`; "lm_head" gets an empty one unless quantize_lm_head or an
  // override names it.
  const LinearRecipe& at(std::string_view path) const;
  bool operator==(const Recipe&) const = default;
};
void validate(const Recipe& recipe);

namespace recipes {
// Built-in names: none (alias f32, bf16), int8, int8_block128, int8_rowwise, int8_switchback,
// int8_block32, fp8_tensorwise, fp8_delayed, fp8_rowwise, fp8_block128, w8a8g8 and the other cells
// of the study (w8_channel, w4_tensor, a8_token, a4_channel, g8_token, w8a8_token, …; suffixes _ste
// and _tim choose the backward).
std::vector<std::string> names();
// "int8" · "int8,wgrad=none" · "none,fprop.rhs=int4:group128" · "int8,lm_head=on,tie=off" ·
// "w8a8g8,moments.m=int8:row,moments=simulated" · "int8,layer:*.mlp.fc2=none" ·
// "fp8_rowwise,accumulate=fast" (every real product) · "fp8_rowwise,fprop.accumulate=fast" ·
// "int8,fuse=off" · "int8,lm_head=on,target=encoded" ·
// "int8,save=recompute,layer:*.mlp.fc1/output=recompute" · a product's value is "none", a preset's
// name (its product is taken) or "LHS|RHS[|real[|fast]]" with spec texts. Throws Error("recipe")
// naming the nearest known word.
Recipe parse(std::string_view text);
std::string to_string(const Recipe& recipe);  // parse(to_string(r)) == r
// A user's recipe or quantizer by name (nibble::cli extensions).
void register_recipe(const std::string& name, const Recipe& recipe);
void register_quantizer(std::shared_ptr<const CustomQuantizer> quantizer);
}  // namespace recipes

}  // namespace nibble
