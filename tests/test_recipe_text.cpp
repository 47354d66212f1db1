// The text form of recipes: what it reads, that it round-trips, what it says about typing errors.
#include <doctest/doctest.h>

#include "quant/recipe.h"

using namespace nibble;

namespace {

struct Named : CustomQuantizer {
  explicit Named(std::string word) : word_(std::move(word)) {}
  std::string name() const override { return word_; }
  Tensor fake_quantize(const Tensor& x, const RngKey&) const override { return x; }

 private:
  std::string word_;
};

void check_round_trip(const Recipe& r) {
  const std::string text = recipes::to_string(r);
  CAPTURE(text);
  CHECK(recipes::parse(text) == r);
  CHECK(recipes::to_string(recipes::parse(text)) == text);
}

}  // namespace

TEST_CASE("recipe text: every preset writes its name") {
  for (const std::string& name : recipes::names()) {
    CAPTURE(name);
    CHECK(recipes::to_string(recipes::parse(name)) == name);
  }
  CHECK(recipes::to_string(recipes::parse("bf16")) == "none");
  CHECK(recipes::to_string(recipes::parse("w8a8g8_token")) == "w8a8g8");
}

TEST_CASE("recipe text: items change one part each") {
  CHECK(recipes::parse("int8,wgrad=none").linear.wgrad.empty());
  CHECK(recipes::parse("int8,wgrad=bf16") == recipes::parse("int8,wgrad=none"));
  CHECK(recipes::parse("int8,wgrad=none").linear.save == Save::Original);
  // The weight's codes, which dgrad had reused, stay.
  CHECK(recipes::parse("int8_block128,fprop=none").linear.dgrad.rhs.quant ==
        parse_spec("int8:block128:recip"));
  CHECK(recipes::parse("int8,wgrad=none").linear.fprop == recipes::parse("int8").linear.fprop);
  CHECK(recipes::parse("none,fprop.rhs=int4:group128").linear.fprop.rhs.quant ==
        parse_spec("int4:group128"));
  CHECK(recipes::parse("int8,dgrad=fp8_rowwise").linear.dgrad ==
        recipes::parse("fp8_rowwise").linear.dgrad);
  const Recipe real = recipes::parse("none,fprop=int8:row|int4:row|real,save=original");
  CHECK(real.linear.fprop.mode == Mode::Real);
  CHECK(real.linear.fprop.rhs.quant == parse_spec("int4:row"));
  CHECK(recipes::parse("none,fprop=none|dyn8:col,dgrad.rhs=reuse").linear.dgrad.rhs.source ==
        Source::ReuseForward);
  CHECK(recipes::parse("int8").at("lm_head") == LinearRecipe{});
  CHECK(recipes::parse("int8,lm_head=on").at("lm_head").exact_target);
  CHECK_FALSE(recipes::parse("int8,lm_head=on,target=encoded").at("lm_head").exact_target);
  CHECK(recipes::parse("w8a8g8,layer:lm_head/target=exact").at("lm_head").exact_target);
  CHECK_FALSE(recipes::parse("w8a8g8").at("lm_head").exact_target);
  const Recipe model = recipes::parse("int8,lm_head=on,tie=off,weights=bf16");
  CHECK(model.quantize_lm_head);
  CHECK(model.tie_embeddings == false);
  CHECK(model.weights == WeightStorage::BF16);
  CHECK(!recipes::parse("w8a8,tie=model").tie_embeddings.has_value());
  CHECK(recipes::parse("w8a8g8,moments.m=int8:row,moments=simulated").moments ==
        MomentRecipe{.m = "int8:row", .v = "", .simulated = true});
  CHECK(recipes::parse("int8,moments.m=f32,moments.v=none").moments == MomentRecipe{});
}

TEST_CASE("recipe text: fast accumulation, by product and for all") {
  const LinearRecipe full = recipes::parse("fp8_rowwise").linear;
  for (const GemmRecipe* g : {&full.fprop, &full.dgrad, &full.wgrad})
    CHECK(g->accumulation == Accumulation::Full);
  const LinearRecipe one = recipes::parse("fp8_rowwise,fprop.accumulate=fast").linear;
  CHECK(one.fprop.accumulation == Accumulation::Fast);
  CHECK(one.dgrad == full.dgrad);
  const LinearRecipe all = recipes::parse("fp8_rowwise,wgrad=none,accumulate=fast").linear;
  CHECK(all.fprop.accumulation == Accumulation::Fast);
  CHECK(all.dgrad.accumulation == Accumulation::Fast);
  CHECK(all.wgrad.empty());
  CHECK(recipes::parse("fp8_rowwise,accumulate=fast,accumulate=full").linear == full);
  CHECK(recipes::parse("none,fprop=e4m3:row|e4m3:row|real|fast").linear.fprop.accumulation ==
        Accumulation::Fast);
}

TEST_CASE("recipe text: layers") {
  const Recipe r = recipes::parse("int8,layer:*.mlp.fc2=none,layer:blocks.0.*/wgrad=none");
  CHECK(r.at("blocks.1.mlp.fc2").empty());
  CHECK(r.at("blocks.0.attn.qkv").wgrad.empty());
  CHECK(r.at("blocks.0.attn.qkv").fprop == r.linear.fprop);
  CHECK(r.at("blocks.1.attn.qkv") == r.linear);
  CHECK(r.overrides.size() == 2);
  // A user's own patterns come before the preset's, and replace an equal one.
  const Recipe g = recipes::parse("g8_token,layer:blocks.0.*=none");
  CHECK(g.at("blocks.0.attn.qkv").empty());
  CHECK(g.at("blocks.1.attn.qkv").wgrad.lhs.quant->row_splits == 3);
  const Recipe replaced = recipes::parse("g8_token,layer:*.attn.qkv=w8_channel");
  CHECK(replaced.overrides.size() == 1);
  CHECK(replaced.at("blocks.1.attn.qkv") == recipes::parse("w8_channel").linear);
  CHECK(recipes::parse("g8_token,layers=none").overrides.empty());
}

TEST_CASE("recipe text: products change in a preset's own overrides too") {
  const Recipe off = recipes::parse("w8a8g8,wgrad=none");
  CHECK(off.at("blocks.0.attn.qkv").wgrad.empty());
  const Recipe four = recipes::parse("w8a8g8,wgrad=g4_token");
  CHECK(four.linear.wgrad.lhs.quant == parse_spec("int4:col:floor1e-9"));
  CHECK(four.at("blocks.0.attn.qkv").wgrad.lhs.quant == parse_spec("int4:col:floor1e-9:rowsplit3"));
}

TEST_CASE("recipe text: combinations round-trip") {
  for (const char* text : {"int8,wgrad=none",
                           "int8,save=original",
                           "int8,fuse=off",
                           "int8,target=encoded",
                           "w8a8g8,target=exact",
                           "int8,save=encoded",
                           "int8_block128,save=recompute",
                           "none,save=recompute,layer:*.mlp.fc1/output=recompute",
                           "int8,output=recompute",
                           "int8,layer:*.fc2/fuse=off",
                           "int8,fprop=none,lm_head=on,tie=on",
                           "none,fprop.rhs=int4:group128",
                           "none,fprop=int8:row|int8:tensor|real,dgrad.rhs=reuse",
                           "w8a8g8,moments.m=int8:row,moments=simulated",
                           "int8,layer:*.mlp.fc2=none",
                           "int8,layer:blocks.0.*/wgrad=none,layer:*.fc?=fp8_rowwise",
                           "g8_token,layers=none",
                           "g8_token,layer:*.attn.qkv=none,layer:*.fc1=w4_tensor",
                           "w8a8g8,wgrad=g4_token",
                           "w8a8g8,wgrad.lhs=int4:group32:sr:mse20",
                           "int8,weights=int8,moments.v=f32",
                           "m2_8_row,moments=stored",
                           "w8a8,tie=model,lm_head=off",
                           "int8_rowwise,layer:lm_head/"
                           "fprop=int8:group64|int8:block64|real,name=probe,linear.name=a.b",
                           "none,layer:*.x/name=only_named",
                           "fp8_rowwise,accumulate=fast",
                           "fp8_tensorwise,wgrad=none,accumulate=fast",
                           "fp8_rowwise,fprop.accumulate=fast",
                           "none,fprop=e4m3:row|e5m2:row|real|fast",
                           "fp8_rowwise,layer:*.fc1/dgrad.accumulate=fast"}) {
    CAPTURE(text);
    check_round_trip(recipes::parse(text));
  }
  Recipe r = recipes::parse("w8a8g8");
  r.overrides.insert(r.overrides.begin() + 1, {"*.later", recipes::parse("int8").linear});
  r.overrides.push_back({"*.last", r.linear});
  check_round_trip(r);
  Recipe own;
  own.name = "hadamard_int4";
  own.linear = recipes::parse("int8_block32").linear;
  own.linear.name = "unheard-of";
  own.linear.dgrad.lhs.quant->calibration = {Calibration::Kind::Mse, 40};
  check_round_trip(own);
}

TEST_CASE("recipe text: registered recipes and quantizers have names") {
  Recipe r = recipes::parse("int8,wgrad=none");
  recipes::register_recipe("test_mine", r);
  r.name = "test_mine";
  CHECK(recipes::parse("test_mine") == r);
  CHECK(recipes::to_string(r) == "test_mine");
  CHECK_NOTHROW(recipes::register_recipe("test_mine", r));
  CHECK_THROWS_WITH(recipes::register_recipe("test_mine", Recipe{}),
                    "recipe: 'test_mine' is already another recipe's name");
  CHECK_THROWS_WITH(recipes::register_recipe("int8", Recipe{}),
                    "recipe: 'int8' is already another recipe's name");
  CHECK_THROWS_WITH(recipes::register_recipe("bf16", Recipe{}),
                    "recipe: 'bf16' is another name of 'none'; choose a new one");

  const auto lsq = std::make_shared<Named>("lsq(4)");
  recipes::register_quantizer(lsq);
  const Recipe custom = recipes::parse("none,fprop=lsq(4)|int4:row,wgrad.rhs=reuse");
  CHECK(custom.linear.fprop.lhs.custom == lsq);
  check_round_trip(custom);
  CHECK_THROWS_WITH(recipes::register_quantizer(std::make_shared<Named>("lsq(4)")),
                    "recipe: 'lsq(4)' is already another quantizer's name");
  CHECK_THROWS_WITH(
      recipes::register_quantizer(std::make_shared<Named>("int8:row")),
      "recipe: quantizer name 'int8:row' already means something in recipes; choose another");
  CHECK_THROWS_WITH(recipes::register_quantizer(std::make_shared<Named>("a,b")),
                    "recipe: bad quantizer name 'a,b', expected letters, digits and '_-+.:()'");
  Recipe unknown = custom;
  unknown.linear.fprop.lhs.custom = std::make_shared<Named>("nowhere");
  CHECK_THROWS_AS(recipes::to_string(unknown), Error);
}

TEST_CASE("recipe text: errors name the nearest word") {
  const auto check = [](const char* text, const char* message) {
    CAPTURE(text);
    CHECK_THROWS_WITH_AS(recipes::parse(text), message, Error);
  };
  check("int8_rowise", "recipe: unknown recipe 'int8_rowise'; did you mean 'int8_rowwise'?");
  check("w8a8g9", "recipe: unknown recipe 'w8a8g9'; did you mean 'w8a8g8'?");
  check("", "recipe: unknown recipe ''");
  check("completely_different_words", "recipe: unknown recipe 'completely_different_words'");
  check("int8,wgad=none", "recipe: unknown key 'wgad'; did you mean 'wgrad'?");
  check("int8,wgrad=nome", "recipe: wgrad: unknown recipe 'nome'; did you mean 'none'?");
  check("int8,fprop.lsh=none", "recipe: unknown key 'fprop.lsh'; did you mean 'fprop.lhs'?");
  check("int8,layer:*.fc1=int9",
        "recipe: layer:*.fc1: unknown recipe 'int9'; did you mean 'int8'?");
  check("int8,layer:*.fc1/sav=original",
        "recipe: layer:*.fc1: unknown key 'sav'; did you mean 'save'?");
  check("int8,lm_head", "recipe: 'lm_head' in 'int8,lm_head': expected KEY=VALUE");
  check("int8,lm_head=yes", "recipe: lm_head: got 'yes', expected one of on, off");
  check("int8,tie=", "recipe: tie: got '', expected one of on, off, model");
  check("int8,fuse=no", "recipe: fuse: got 'no', expected one of on, off");
  check("int8,save=both", "recipe: save: got 'both', expected one of original, encoded, recompute");
  check("int8,weights=int4", "recipe: weights: got 'int4', expected one of f32, bf16, int8");
  check("int8,moments=fast", "recipe: moments: got 'fast', expected one of simulated, stored");
  check("int8,layers=all", "recipe: layers: got 'all', expected none");
  check("int8,fprop=int8:row|int8:row|rael",
        "recipe: fprop: got 'rael', expected one of simulated, real");
  check("int8,fprop=int8:row|int8:row|real|x",
        "recipe: fprop: got 'x', expected one of full, fast");
  check("int8,fprop=int8:row|int8:row|real|fast|x",
        "recipe: fprop: got 'int8:row|int8:row|real|fast|x', expected LHS|RHS, LHS|RHS|real or "
        "LHS|RHS|real|fast");
  check("fp8_rowwise,accumulate=slow",
        "recipe: accumulate: got 'slow', expected one of full, fast");
  check("fp8_rowwise,dgrad.acumulate=fast",
        "recipe: unknown key 'dgrad.acumulate'; did you mean 'dgrad.accumulate'?");
  check("int8,fprop.lhs=none",
        "recipe: int8: fprop is real, but lhs has no codes; encode both operands or use mode "
        "simulated");
  check("int8,fprop.rhs=int8:col",
        "recipe: int8: fprop: rhs scale varies along the contraction axis (tile {0, 1}); quantize "
        "the transpose or use group(128)");
  CHECK_THROWS_AS(recipes::parse("none,fprop.rhs=int9:row"), Error);
  CHECK_THROWS_AS(recipes::parse("int8,name=a b"), Error);
}
