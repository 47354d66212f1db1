// Recipes built for speed and memory: real products, scales multiplied by their reciprocal, SR on
// gradients (design.md 3.5; low-precision-training.md (a), (c), (d), (i)).
#include "quant/recipe_registry.h"

namespace nibble::recipes {
namespace {

Encoding encode(Format format, Tile tile, Rounding rounding = Rounding::Nearest) {
  QuantSpec spec;
  spec.format = std::move(format);
  spec.tile = tile;
  spec.rounding = rounding;
  spec.scaling = Scaling::Reciprocal;
  return {.quant = spec, .source = Source::Requantize, .custom = nullptr};
}
Encoding int8(Tile tile) { return encode(Format::integer(8), tile); }
Encoding int8_sr(Tile tile) { return encode(Format::integer(8), tile, Rounding::Stochastic); }
Encoding e4m3(Tile tile) { return encode(Format::floating(4, 3), tile); }
Encoding e5m2(Tile tile) { return encode(Format::floating(5, 2), tile); }
Encoding reuse() { return {.quant = {}, .source = Source::ReuseForward, .custom = nullptr}; }

GemmRecipe real(Encoding lhs, Encoding rhs) { return {std::move(lhs), std::move(rhs), Mode::Real}; }

Recipe preset(const char* name, GemmRecipe fprop, GemmRecipe dgrad, GemmRecipe wgrad,
              Save save = Save::Encoded) {
  Recipe r;
  r.name = name;
  r.linear = {name, std::move(fprop), std::move(dgrad), std::move(wgrad), save};
  return r;
}

// Six encodings, each along its own contraction.
Recipe rowwise(const char* name) {
  return preset(name, real(int8(kPerRow), int8(kPerRow)), real(int8_sr(kPerRow), int8(kPerRow)),
                real(int8_sr(kPerRow), int8(kPerRow)));
}

// Activations and gradients in groups along the contraction, weights in square blocks whose codes
// serve both orientations: every scale is local to a 128 × 128 patch of its tensor.
Recipe blockwise(const char* name) {
  return preset(name, real(int8(group(128)), int8(block(128))), real(int8_sr(group(128)), reuse()),
                real(int8_sr(group(128)), int8(group(128))));
}

// One scale a token and an output channel where producers see whole rows, 256 tokens where the
// contraction runs over tokens, whose gradients differ by orders of magnitude.
Recipe by_token(const char* name) {
  return preset(name, real(int8(kPerRow), int8(kPerRow)), real(int8_sr(kPerRow), int8(kPerRow)),
                real(int8_sr(group(256)), int8(group(256))));
}

// SwitchBack: the long, noisy contraction over tokens stays in full precision.
Recipe int8_switchback() {
  return preset("int8_switchback", real(int8(kPerRow), int8(kPerTensor)),
                real(int8_sr(kPerRow), reuse()), {}, Save::Original);
}

// Jetfire: one set of codes a tensor, since square blocks are their own transpose.
Recipe int8_block32() {
  return preset("int8_block32", real(int8(block(32)), int8(block(32))),
                real(int8_sr(block(32)), reuse()), real(int8_sr(block(32)), reuse()));
}

Recipe fp8_tensorwise() {
  return preset("fp8_tensorwise", real(e4m3(kPerTensor), e4m3(kPerTensor)),
                real(e5m2(kPerTensor), reuse()), real(e5m2(kPerTensor), reuse()));
}
// The same with the scales of activations and gradients from 16 steps before (Transformer Engine's
// DelayedScaling): no pass that finds a range. Weights keep their own.
Recipe fp8_delayed() {
  constexpr int kHistory = 16;
  Recipe r = fp8_tensorwise();
  r.name = r.linear.name = "fp8_delayed";
  for (Encoding* e : {&r.linear.fprop.lhs, &r.linear.dgrad.lhs, &r.linear.wgrad.lhs})
    e->quant->calibration.history = kHistory;
  return r;
}
Recipe fp8_rowwise() {
  return preset("fp8_rowwise", real(e4m3(kPerRow), e4m3(kPerRow)),
                real(e5m2(kPerRow), e4m3(kPerRow)), real(e5m2(kPerRow), e4m3(kPerRow)));
}
Recipe fp8_block128() {
  return preset("fp8_block128", real(e4m3(group(128)), e4m3(block(128))),
                real(e4m3(group(128)), reuse()), real(e4m3(group(128)), e4m3(group(128))));
}

}  // namespace

std::vector<Recipe> speed_presets() {
  Recipe flagship = by_token("int8");  // README.md
  flagship.linear.save = Save::Recompute;
  flagship.linear.exact_target = true;
  flagship.moments = {.m = "dyn8:group256", .v = "dynu8:group256:sr:recip", .simulated = false};
  return {Recipe{},          flagship,       rowwise("int8_rowwise"), blockwise("int8_block128"),
          int8_switchback(), int8_block32(), fp8_tensorwise(),        fp8_delayed(),
          fp8_rowwise(),     fp8_block128()};
}

}  // namespace nibble::recipes
