// Recipes: what is valid, which layer gets what, what the presets contain.
#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "quant/recipe.h"

using namespace nibble;

namespace {

Encoding spec(const char* text) {
  return {.quant = parse_spec(text), .source = Source::Requantize, .custom = nullptr};
}
Encoding reuse() { return {.quant = {}, .source = Source::ReuseForward, .custom = nullptr}; }

struct Halve : CustomQuantizer {
  std::string name() const override { return "halve"; }
  Tensor fake_quantize(const Tensor& x, const RngKey&) const override { return x; }
};

// A valid real recipe to break one rule of at a time.
LinearRecipe rowwise() {
  LinearRecipe r;
  r.name = "mine";
  r.fprop = {spec("int8:row"), spec("int8:row"), Mode::Real};
  r.dgrad = {spec("int8:row:sr"), spec("int8:row"), Mode::Real};
  r.wgrad = {spec("int8:row:sr"), spec("int8:row"), Mode::Real};
  r.save = Save::Encoded;
  return r;
}

template <class Edit>
void check_invalid(const char* message, Edit&& edit) {
  LinearRecipe r = rowwise();
  edit(r);
  CHECK_THROWS_WITH_AS(validate(r), message, Error);
}

const Encoding& operand(const LinearRecipe& r, const char* product, bool lhs) {
  const std::string name = product;
  const GemmRecipe& g = name == "fprop" ? r.fprop : name == "dgrad" ? r.dgrad : r.wgrad;
  return lhs ? g.lhs : g.rhs;
}

// "LHS RHS" of the three products, and what is saved.
std::string table(const LinearRecipe& r) {
  std::string text;
  for (const char* product : {"fprop", "dgrad", "wgrad"})
    for (const bool lhs : {true, false}) {
      const Encoding& e = operand(r, product, lhs);
      text += e.quant ? to_string(*e.quant) : e.source == Source::ReuseForward ? "reuse" : "-";
      text += lhs ? " " : "; ";
    }
  return text + (r.save == Save::Encoded     ? "encoded"
                 : r.save == Save::Recompute ? "recompute"
                                             : "original");
}
std::string table(const char* name) { return table(recipes::parse(name).linear); }

}  // namespace

TEST_CASE("recipe: valid recipes pass") {
  CHECK_NOTHROW(validate(LinearRecipe{}));
  CHECK_NOTHROW(validate(rowwise()));
  LinearRecipe r = rowwise();
  r.fprop.rhs = spec("int8:tensor");
  r.dgrad.rhs = reuse();
  CHECK_NOTHROW(validate(r));
  r.fprop = {{.quant = {}, .source = Source::Requantize, .custom = std::make_shared<Halve>()},
             spec("dyn8:col"),
             Mode::Simulated};
  r.dgrad = {};
  r.wgrad = {spec("int4:col"), reuse(), Mode::Simulated};
  r.save = Save::Original;
  CHECK_NOTHROW(validate(r));
}

TEST_CASE("recipe: real products need scales that factor out") {
  check_invalid(
      "recipe: mine: fprop: rhs scale varies along the contraction axis (tile {0, 1}); quantize "
      "the transpose or use group(128)",
      [](LinearRecipe& r) { r.fprop.rhs = spec("int8:col"); });
  check_invalid(
      "recipe: mine: dgrad: rhs scale varies along the contraction axis (tile {0, 1}); quantize "
      "the transpose or use group(128) (rhs reuses fprop.rhs, transposed)",
      [](LinearRecipe& r) { r.dgrad.rhs = reuse(); });
  check_invalid(
      "recipe: mine: wgrad: rhs scale varies along the contraction axis (tile {0, 1}); quantize "
      "the transpose or use group(128) (rhs reuses fprop.lhs, transposed)",
      [](LinearRecipe& r) { r.wgrad.rhs = reuse(); });
  check_invalid(
      "recipe: mine: dgrad: lhs is int8 and rhs is e4m3; encode both as integers or both as floats",
      [](LinearRecipe& r) { r.dgrad.rhs = spec("e4m3:row"); });
  check_invalid(
      "recipe: mine: wgrad: scales run over 32 codes of the contraction in lhs but 64 codes in "
      "rhs; use equal groups, or one scale for the whole contraction in one of them",
      [](LinearRecipe& r) {
        r.wgrad = {spec("int8:group32"), spec("int8:group64"), Mode::Real};
      });
  check_invalid(
      "recipe: mine: dgrad is real, but rhs has no codes; encode both operands or use mode "
      "simulated",
      [](LinearRecipe& r) { r.dgrad.rhs = {}; });
  check_invalid(
      "recipe: mine: fprop is real, but lhs has no codes; encode both operands or use mode "
      "simulated",
      [](LinearRecipe& r) { r.fprop.lhs = {}; });
}

TEST_CASE("recipe: only real products of small floats accumulate fast") {
  check_invalid(
      "recipe: mine: dgrad accumulates fast, but sums of int8 codes are exact; leave "
      "accumulate=full",
      [](LinearRecipe& r) { r.dgrad.accumulation = Accumulation::Fast; });
  check_invalid(
      "recipe: mine: fprop accumulates fast, which only real products do; leave accumulate=full",
      [](LinearRecipe& r) {
        r.fprop.mode = Mode::Simulated;
        r.fprop.accumulation = Accumulation::Fast;
      });
}

TEST_CASE("recipe: reuse, save, quantizers and rounding follow their rules") {
  check_invalid(
      "recipe: mine: dgrad.lhs cannot reuse codes of the forward pass; only dgrad.rhs and "
      "wgrad.rhs can",
      [](LinearRecipe& r) { r.dgrad.lhs = reuse(); });
  check_invalid("recipe: mine: wgrad.rhs reuses fprop.lhs, which encodes nothing",
                [](LinearRecipe& r) {
                  r.fprop = {};
                  r.wgrad.rhs = reuse();
                });
  check_invalid(
      "recipe: mine: dgrad.rhs has more than one encoding; give it a spec, a quantizer or 'reuse'",
      [](LinearRecipe& r) { r.dgrad.rhs.source = Source::ReuseForward; });
  check_invalid(
      "recipe: mine: fprop.lhs: quantizer 'halve' has no codes to multiply; use mode simulated",
      [](LinearRecipe& r) {
        r.fprop.lhs = {
            .quant = {}, .source = Source::Requantize, .custom = std::make_shared<Halve>()};
      });
  check_invalid(
      "recipe: mine: save=encoded, but wgrad.rhs has no codes to save; encode it or save=original",
      [](LinearRecipe& r) { r.wgrad = {}; });
  check_invalid(
      "recipe: mine: fprop.rhs rounds stochastically (int8:row:sr), so that evaluation would be "
      "random; use nearest",
      [](LinearRecipe& r) { r.fprop.rhs = spec("int8:row:sr"); });
  check_invalid(
      "recipe: mine: fprop.lhs: quant spec: packed codes have at most 4 bits: got int8 of 8 bits",
      [](LinearRecipe& r) { r.fprop.lhs.quant->packed = true; });
  check_invalid("recipe: bad name 'a b', expected letters, digits, '_', '-', '+' and '.'",
                [](LinearRecipe& r) { r.name = "a b"; });
}

TEST_CASE("recipe: whole recipes check overrides and moments") {
  Recipe r;
  r.name = "whole";
  r.overrides = {{"*.fc1", {}}, {"*.fc1", {}}};
  CHECK_THROWS_WITH(validate(r), "recipe: whole: layer pattern '*.fc1' appears twice");
  r.overrides = {{"a,b", {}}};
  CHECK_THROWS_WITH(validate(r),
                    "recipe: whole: bad layer pattern 'a,b', expected a module path with '*' and "
                    "'?'");
  LinearRecipe broken = rowwise();
  broken.save = Save::Encoded;
  broken.wgrad = {};
  r.overrides = {{"*.fc1", broken}};
  CHECK_THROWS_WITH(validate(r),
                    "recipe: mine: save=encoded, but wgrad.rhs has no codes to save; encode it or "
                    "save=original");
  r.overrides = {};
  r.moments.v = "int9:row";
  CHECK_THROWS_AS(validate(r), Error);
  r.moments = {.m = "my_codec", .v = "dynu8:group256", .simulated = false};
  CHECK_NOTHROW(validate(r));
}

TEST_CASE("recipe: a layer gets its first matching override") {
  Recipe r;
  r.linear = rowwise();
  LinearRecipe a, b;
  a.name = "a";
  b.name = "b";
  r.overrides = {{"*.mlp.fc2", a}, {"blocks.?.mlp.*", b}};
  CHECK(r.at("blocks.3.mlp.fc2").name == "a");
  CHECK(r.at("blocks.3.mlp.fc1").name == "b");
  CHECK(r.at("blocks.11.mlp.fc1").name == "mine");
  CHECK(r.at("blocks.3.mlp.fc2x").name == "b");
  CHECK(r.at("mlp.fc2").name == "mine");
  CHECK(r.at("lm_head") == LinearRecipe{});
  r.quantize_lm_head = true;
  CHECK(r.at("lm_head").name == "mine");
  r.quantize_lm_head = false;
  r.overrides.emplace_back("lm_*", b);
  CHECK(r.at("lm_head").name == "b");
}

TEST_CASE("recipe: presets for speed") {
  CHECK(recipes::parse("none") == Recipe{});
  const char* block =
      "int8:group128:recip int8:block128:recip; int8:group128:sr:recip reuse; "
      "int8:group128:sr:recip int8:group128:recip; encoded";
  CHECK(table("int8") ==
        "int8:row:recip int8:row:recip; int8:row:sr:recip int8:row:recip; int8:group256:sr:recip "
        "int8:group256:recip; recompute");
  CHECK(table("int8_block128") == block);
  CHECK(table("int8_rowwise") ==
        "int8:row:recip int8:row:recip; int8:row:sr:recip int8:row:recip; int8:row:sr:recip "
        "int8:row:recip; encoded");
  CHECK(table("int8_switchback") ==
        "int8:row:recip int8:tensor:recip; int8:row:sr:recip reuse; - -; original");
  CHECK(table("int8_block32") ==
        "int8:block32:recip int8:block32:recip; int8:block32:sr:recip reuse; "
        "int8:block32:sr:recip reuse; encoded");
  CHECK(table("fp8_tensorwise") ==
        "e4m3:tensor:recip e4m3:tensor:recip; e5m2:tensor:recip reuse; e5m2:tensor:recip reuse; "
        "encoded");
  CHECK(table("fp8_delayed") ==
        "e4m3:tensor:recip:delayed16 e4m3:tensor:recip; e5m2:tensor:recip:delayed16 reuse; "
        "e5m2:tensor:recip:delayed16 reuse; encoded");
  CHECK(table("fp8_rowwise") ==
        "e4m3:row:recip e4m3:row:recip; e5m2:row:recip e4m3:row:recip; e5m2:row:recip "
        "e4m3:row:recip; encoded");
  CHECK(table("fp8_block128") ==
        "e4m3:group128:recip e4m3:block128:recip; e4m3:group128:recip reuse; "
        "e4m3:group128:recip e4m3:group128:recip; encoded");
  for (const char* name : {"int8", "int8_block128", "fp8_rowwise"}) {
    const Recipe r = recipes::parse(name);
    CHECK(r.linear.fprop.mode == Mode::Real);
    CHECK(r.linear.dgrad.mode == Mode::Real);
    CHECK(r.linear.wgrad.mode == Mode::Real);
    CHECK(!r.quantize_lm_head);
    CHECK(!r.tie_embeddings);
    CHECK(r.weights == WeightStorage::F32);
  }
  CHECK(recipes::parse("int8").moments ==
        MomentRecipe{.m = "dyn8:group256", .v = "dynu8:group256:sr:recip", .simulated = false});
  CHECK(recipes::parse("int8_rowwise").moments == MomentRecipe{});
}

TEST_CASE("recipe: the study's cells") {
  CHECK(table("w8_channel") == "- int8:row:floor1e-05; - -; - -; original");
  CHECK(table("w4_tensor") == "- int4:tensor:floor1e-05; - -; - -; original");
  CHECK(table("a8_token") == "int8:row:floor1e-05 -; - -; - -; original");
  CHECK(table("a4_channel") == "int4:col:floor1e-05 -; - -; - -; original");
  CHECK(table("a4_token_asym") == "int4:row:asym:floor1e-05 -; - -; - -; original");
  CHECK(table("g8_token") == "- -; - -; int8:col:floor1e-09 -; original");
  CHECK(table("g4_tensor") == "- -; - -; int4:tensor:floor1e-09 -; original");
  CHECK(table("g8_token_tim") == "- -; int8:row:floor1e-09 -; - -; original");
  CHECK(table("w4_channel_ste") == "- int4:row:floor1e-05; - reuse; - -; original");
  CHECK(table("a8_tensor_ste") == "int8:tensor:floor1e-05 -; - -; - reuse; original");
  CHECK(table("w8a8_ste") == "int8:row:floor1e-05 int8:row:floor1e-05; - reuse; - reuse; original");
  CHECK(table("w8a8g8") ==
        "int8:row:floor1e-05 int8:row:floor1e-05; - -; int8:col:floor1e-09 -; original");
  CHECK(table("w8a8g8_tim") ==
        "int8:row:floor1e-05 int8:row:floor1e-05; int8:row:floor1e-09 -; - -; original");
  CHECK(recipes::parse("w8a8_token") == recipes::parse("w8a8"));

  const Recipe r = recipes::parse("w8a8g8");
  CHECK(r.quantize_lm_head);
  CHECK(r.tie_embeddings == false);
  CHECK(r.linear.fprop.mode == Mode::Simulated);
  CHECK(r.linear.fprop.lhs.quant->scaling == Scaling::Divide);
  // Q, K and V: thirds of dyᵀ[3C, M]'s rows, or of dy[M, 3C]'s columns.
  CHECK(table(r.at("blocks.0.attn.qkv")) ==
        "int8:row:floor1e-05 int8:row:floor1e-05; - -; int8:col:floor1e-09:rowsplit3 -; original");
  CHECK(table(recipes::parse("g8_tensor_tim").at("blocks.0.attn.qkv")) ==
        "- -; int8:tensor:floor1e-09:split3 -; - -; original");
  CHECK(r.at("blocks.0.attn.proj") == r.linear);
  CHECK(recipes::parse("w8a8").overrides.empty());
}

TEST_CASE("recipe: the study's moments") {
  const std::pair<const char*, MomentRecipe> cells[] = {
      {"m1_8_row", {"int8:row:floor1e-08", "", true}},
      {"m1_4_row", {"int4:row:floor1e-08", "", true}},
      {"m1_8_tensor", {"int8:tensor:floor1e-08", "", true}},
      {"m1_4_tensor", {"int4:tensor:floor1e-08", "", true}},
      {"m2_8_row", {"", "int8:row:floor1e-08", true}},
      {"m2_8u_tensor", {"", "uint8:tensor:floor1e-08", true}},
  };
  for (const auto& [name, moments] : cells) {
    CAPTURE(name);
    const Recipe r = recipes::parse(name);
    CHECK(r.moments == moments);
    CHECK(r.linear.empty());
  }
}

TEST_CASE("recipe: every cell of the study's matrix has a preset, names are unique") {
  const std::vector<std::string> names = recipes::names();
  CHECK(std::set<std::string>(names.begin(), names.end()).size() == names.size());
  for (const char* cell :
       {"w8_channel", "w8_tensor",   "w4_channel",   "w4_tensor",  "a8_token",
        "a8_tensor",  "a4_token",    "a4_tensor",    "a4_channel", "a4_token_asym",
        "g8_token",   "g8_tensor",   "g4_token",     "m1_8_row",   "m1_8_tensor",
        "m1_4_row",   "m1_4_tensor", "m2_8u_tensor", "w8a8",       "w8a8g8"})
    CHECK(std::ranges::count(names, cell) == 1);
}
