// One recipe for each cell of the study (quantization-study.md 1.4, 1.5, 5.3): fake quantization,
// division by the step, absolute floors. Weights and activations touch fprop alone, gradients one
// product of the backward pass, everything else is full precision. `_ste`: the backward pass
// multiplies by the forward's codes. `_tim`: the gradient is quantized for dgrad instead of wgrad.
#include "quant/recipe_registry.h"

namespace nibble::recipes {
namespace {

constexpr float kFloor = 1e-5f;          // weights and activations
constexpr float kGradientFloor = 1e-9f;  // gradients
constexpr const char* kQkv = "*.attn.qkv";

enum class Backward { Paper, Ste, Tim };

// W[N, K] and X[M, K] in fprop's orientation; G[M, N] in dgrad's.
struct Cell {
  std::string name;
  std::optional<QuantSpec> w, a, g;
};

QuantSpec spec(int bits, Tile tile, float floor) {
  QuantSpec s;
  s.format = Format::integer(bits);
  s.tile = tile;
  s.floor = {floor, false};
  return s;
}
Encoding encoding(std::optional<QuantSpec> quant) {
  return {.quant = std::move(quant), .source = Source::Requantize, .custom = nullptr};
}
Encoding reuse_of(const std::optional<QuantSpec>& forward) {
  return {.quant = {},
          .source = forward ? Source::ReuseForward : Source::Requantize,
          .custom = nullptr};
}

LinearRecipe linear(const Cell& cell, const std::optional<QuantSpec>& g, Backward backward,
                    std::string name) {
  LinearRecipe r;
  r.name = std::move(name);
  r.fprop = {encoding(cell.a), encoding(cell.w), Mode::Simulated};
  if (g && backward == Backward::Tim)
    r.dgrad.lhs = encoding(g);
  else if (g)
    r.wgrad.lhs = encoding(g->t());  // a scale a token is a scale a column of dyᵀ[N, M]
  if (backward == Backward::Ste) {
    r.dgrad.rhs = reuse_of(cell.w);
    r.wgrad.rhs = reuse_of(cell.a);
  }
  return r;
}

Recipe recipe(const Cell& cell, Backward backward, const char* suffix) {
  Recipe r;
  r.name = cell.name + suffix;
  r.linear = linear(cell, cell.g, backward, r.name);
  if (cell.g) {  // gradients of Q, K and V never share a scale
    QuantSpec thirds = *cell.g;
    thirds.col_splits = 3;
    r.overrides.emplace_back(kQkv, linear(cell, thirds, backward, r.name + "_qkv"));
  }
  // The study's layer replacement quantizes lm_head too and so unties it from the embedding.
  r.quantize_lm_head = true;
  r.tie_embeddings = false;
  return r;
}

struct Granularity {
  const char* name;
  Tile tile;
  bool symmetric = true;
};

std::vector<Cell> cells() {
  std::vector<Cell> all;
  const Granularity weights[] = {{"channel", kPerRow}, {"tensor", kPerTensor}};
  const Granularity activations[] = {{"token", kPerRow},
                                     {"tensor", kPerTensor},
                                     {"channel", kPerColumn},
                                     {"token_asym", kPerRow, false}};
  const Granularity gradients[] = {{"token", kPerRow}, {"tensor", kPerTensor}};
  for (const int bits : {8, 4}) {
    for (const Granularity& g : weights)
      all.push_back({fmt::format("w{}_{}", bits, g.name), spec(bits, g.tile, kFloor), {}, {}});
    for (const Granularity& g : activations) {
      QuantSpec s = spec(bits, g.tile, kFloor);
      s.symmetric = g.symmetric;
      all.push_back({fmt::format("a{}_{}", bits, g.name), {}, s, {}});
    }
    for (const Granularity& g : gradients)
      all.push_back(
          {fmt::format("g{}_{}", bits, g.name), {}, {}, spec(bits, g.tile, kGradientFloor)});
  }
  const QuantSpec row8 = spec(8, kPerRow, kFloor);
  all.push_back({"w8a8", row8, row8, {}});
  all.push_back({"w8a8g8", row8, row8, spec(8, kPerRow, kGradientFloor)});
  return all;
}

Recipe moments(const char* name, std::string m, std::string v) {
  Recipe r;
  r.name = name;
  r.moments = {.m = std::move(m), .v = std::move(v), .simulated = true};
  return r;
}

}  // namespace

std::vector<Recipe> study_presets() {
  std::vector<Recipe> all;
  for (const Cell& cell : cells()) {
    all.push_back(recipe(cell, Backward::Paper, ""));
    if (cell.w || cell.a) all.push_back(recipe(cell, Backward::Ste, "_ste"));
    if (cell.g) all.push_back(recipe(cell, Backward::Tim, "_tim"));
  }
  all.push_back(moments("m1_8_row", "int8:row:floor1e-08", ""));
  all.push_back(moments("m1_4_row", "int4:row:floor1e-08", ""));
  all.push_back(moments("m1_8_tensor", "int8:tensor:floor1e-08", ""));
  all.push_back(moments("m1_4_tensor", "int4:tensor:floor1e-08", ""));
  all.push_back(moments("m2_8_row", "", "int8:row:floor1e-08"));
  all.push_back(moments("m2_8u_tensor", "", "uint8:tensor:floor1e-08"));
  return all;
}

}  // namespace nibble::recipes
