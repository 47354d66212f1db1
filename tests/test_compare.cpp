// Two models on one batch: the numbers of a layer, what a pass tells, and where it differs first.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "apps/compare/layers.h"
#include "autograd/context.h"
#include "models/gpt2.h"
#include "quant/recipe.h"
#include "temp_dir.h"
#include "tensor_testing.h"

using namespace nibble;
using namespace nibble::compare;
using nibble::testing::same_bits;
using test::message_of;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// The closed forms below are doubles after a few roundings. Tier: few ulp of a double.
doctest::Approx around(double x) { return doctest::Approx(x).epsilon(1e-12); }

Tensor of(const std::vector<float>& values) {
  return Tensor::from(values, {static_cast<std::int64_t>(values.size())});
}

Gpt2Config small(bool checkpoint_blocks = false) {
  Gpt2Config c;
  c.vocab = 61, c.context = 16, c.layers = 2, c.heads = 2, c.width = 32;
  c.embedding_dropout = c.attention_dropout = c.residual_dropout = 0.1;
  c.checkpoint_blocks = checkpoint_blocks;
  return c;
}
std::unique_ptr<Gpt2> model(const std::string& recipe, const Gpt2Config& config = small()) {
  return std::make_unique<Gpt2>(config, recipes::parse(recipe), 5);
}
Pass batch() {
  std::vector<std::int32_t> ids, targets;
  for (int i = 0; i < 32; ++i) {
    ids.push_back(i * 7 % 61);
    targets.push_back(i % 5 == 0 ? -1 : (i * 7 + 3) % 61);
  }
  return {.ids = Tensor::from(ids, {2, 16}), .targets = Tensor::from(targets, {2, 16}), .seed = 9};
}
LayerReport compared(const std::string& a, const std::string& b, double threshold = 20) {
  return compare_with(capture(*model(a), batch()), *model(b), batch(), threshold, {});
}
bool equal(const Row& row) { return row.error.sqnr_db == kInfinity; }

}  // namespace

TEST_CASE("compare: the numbers of two tensors") {
  const LayerError e = error_of(of({3, 4}), of({3, 4.5f}));
  CHECK(e.count == 2);
  CHECK(e.sqnr_db == around(20));  // 25 / 0.25
  CHECK(e.cosine == around(27 / (5 * std::sqrt(29.25))));
  CHECK(e.max_abs_error == 0.5);
  CHECK(e.diverges(20.1));
  CHECK(!e.diverges(19.9));
  CHECK(error_of(of({1, 0}), of({-1, 0})).cosine == -1);
}

TEST_CASE("compare: two tensors as one vector") {
  LayerError e = error_of(of({3}), of({3}));
  CHECK(e.sqnr_db == kInfinity);
  e.add(error_of(of({4}), of({4.5f})));
  const LayerError whole = error_of(of({3, 4}), of({3, 4.5f}));
  CHECK(e.count == 2);
  CHECK(e.sqnr_db == whole.sqnr_db);
  CHECK(e.cosine == whole.cosine);
  CHECK(e.max_abs_error == 0.5);
  LayerError none;
  none.add(error_of(of({1, NAN}), of({1, 2})));
  CHECK_FALSE(none.finite());
}

TEST_CASE("compare: sums are doubles") {
  // In f32, 1e8 + 1 is 1e8: the signal would be short by 200,000 and the noise of small errors
  // lost.
  std::vector<float> a(200001, 1), b(200001, 1.5f);
  a[0] = b[0] = 1e4f;
  CHECK(error_of(of(a), of(b)).sqnr_db == around(10 * std::log10(100200000.0 / 50000)));
}

TEST_CASE("compare: zeros, equal tensors, and what is not finite") {
  CHECK(error_of(of({0, 0}), of({0, 0})).sqnr_db == kInfinity);
  CHECK(error_of(of({0, 0}), of({0, 0})).cosine == 1);
  CHECK(error_of(of({0, 0}), of({0, 1})).sqnr_db == -kInfinity);
  CHECK(error_of(of({0, 0}), of({0, 1})).cosine == 0);
  CHECK(error_of(of({2, 1}), of({0, 0})).sqnr_db == around(0));
  CHECK(error_of(of({}), of({})).sqnr_db == kInfinity);
  const LayerError e = error_of(of({NAN, 1, 2}), of({1, INFINITY, 2}));
  CHECK(e.not_finite_a == 1);
  CHECK(e.not_finite_b == 1);
  CHECK(e.sqnr_db == kInfinity);  // of the rest
  CHECK(e.diverges(-1000));
}

TEST_CASE("compare: other dtypes, strides and shapes") {
  const Tensor x = testing::random({4, 6}, DType::F32);
  CHECK(error_of(x, x.t().clone().t()).sqnr_db == kInfinity);
  const double bf16 = error_of(x, x.to(DType::BF16)).sqnr_db;
  CHECK(bf16 > 40);  // 8 bits of significand: at least 20·log10(2⁸) − 8
  CHECK(bf16 < 70);
  CHECK(message_of([&] { error_of(x, x.t()); }) ==
        "compare: got tensors of shapes [4, 6] and [6, 4], expected equal");
}

TEST_CASE("compare: a pass tells what training computes") {
  // Tier: exact.
  const auto m = model("int8");
  const Captured seen = capture(*m, batch());
  for (Parameter* p : parameters(*m)) CHECK(!p->has_grad());
  const Pass pass = batch();
  {
    const ForwardScope scope(
        {.training = true, .seed = 9, .step = nullptr, .micro_step = 0, .telemetry = nullptr});
    Tape tape;
    const Tape::Recording recording(tape);
    const Var loss = m->loss(pass.ids, pass.targets);
    CHECK(loss.item() == seen.loss);
    tape.backward(loss);
  }
  for (Parameter* p : parameters(*m)) {
    CAPTURE(p->name);
    const std::size_t i = seen.find(Kind::Parameter, p->name);
    REQUIRE(i != Captured::kNone);
    CHECK(same_bits(seen.items()[i].value, p->grad()));
  }
  const std::vector<std::string> names = seen.names();
  for (const char* name :
       {"wte/embedding", "blocks.0.attn.qkv/linear", "blocks.1.attn/self_attention", "blocks.1/add",
        "blocks.1/add.2", "blocks.0.mlp/gelu", "ln_f/layer_norm", "lm_head/linear_cross_entropy",
        "token_losses", "blocks.0.attn_dropout/dropout", "wte.weight"})
    CHECK_MESSAGE(std::ranges::find(names, name) != names.end(), name);
  // Every output that the loss depends on has its gradient, of its shape.
  for (const auto& item : seen.items()) {
    if (item.kind != Kind::Output || item.name == "token_losses") continue;
    CAPTURE(item.name);
    const std::size_t i = seen.find(Kind::Gradient, item.name);
    REQUIRE(i != Captured::kNone);
    CHECK(seen.items()[i].value.shape() == item.value.shape());
  }
}

TEST_CASE("compare: a model equals itself, also with checkpointed blocks") {
  // Tier: exact; dropout draws alike because its keys are those of the path.
  const LayerReport same = compared("int8", "int8", 1000);
  CHECK(same.loss_a == same.loss_b);
  CHECK(std::ranges::all_of(same.forward, equal));
  CHECK(std::ranges::all_of(same.backward, equal));
  CHECK(LayerReport::first(same.forward) == nullptr);
  CHECK(LayerReport::first(same.backward) == nullptr);
  CHECK(same.only_a.empty());
  CHECK(same.only_b.empty());
  const auto inside = model("int8", small(true));
  const LayerReport kept =
      compare_with(capture(*model("int8"), batch()), *inside, batch(), 1000, {});
  CHECK(std::ranges::all_of(kept.forward, equal));
  CHECK(std::ranges::all_of(kept.backward, equal));
  CHECK(kept.forward.size() == same.forward.size());
  CHECK(kept.only_a.empty());
}

TEST_CASE("compare: the first layer that differs is the one whose recipe does") {
  const LayerReport forward = compared("none", "none,layer:blocks.1.mlp.fc1=int8", 1000);
  REQUIRE(LayerReport::first(forward.forward));
  CHECK(LayerReport::first(forward.forward)->name == "blocks.1.mlp.fc1/linear");
  // An encoded gradient changes nothing in forward: in wgrad one parameter, in dgrad all below.
  const LayerReport wgrad = compared("none", "none,layer:blocks.1.mlp.fc1=g8_token", 1000);
  CHECK(LayerReport::first(wgrad.forward) == nullptr);
  for (const Row& row : wgrad.backward)
    CHECK(equal(row) == (row.name != "blocks.1.mlp.fc1.weight"));
  // The other parameters are equal, so that all the noise of the whole gradient is this one's.
  const auto changed = std::ranges::find(wgrad.backward, "blocks.1.mlp.fc1.weight", &Row::name);
  REQUIRE(changed != wgrad.backward.end());
  CHECK(wgrad.gradient.noise == changed->error.noise);
  CHECK(wgrad.gradient.signal > changed->error.signal);
  CHECK(wgrad.gradient.sqnr_db > changed->error.sqnr_db);
  std::int64_t count = 0;
  const auto whole = model("none");
  for (const Parameter* p : parameters(*whole)) count += p->numel();
  CHECK(wgrad.gradient.count == count);
  const LayerReport dgrad = compared("none", "none,layer:blocks.1.mlp.fc1=g8_token_tim", 1000);
  CHECK(LayerReport::first(dgrad.forward) == nullptr);
  bool below = false;
  for (const Row& row : dgrad.backward) {
    below = below || row.name == "blocks.1.ln2/layer_norm";
    CHECK_MESSAGE(equal(row) == !below, row.name);
  }
  CHECK(below);
}

TEST_CASE("compare: 8 bits stay above the default threshold in forward, 4 bits do not") {
  CHECK(LayerReport::first(compared("none", "int8").forward) == nullptr);
  CHECK(LayerReport::first(compared("none", "w4_tensor,tie=on").forward) != nullptr);
}

TEST_CASE("compare: a NaN is found where it begins") {
  const auto broken = model("none");
  for (Parameter* p : parameters(*broken))
    if (p->name == "blocks.1.attn.proj.bias") p->storage().fill(NAN);
  const LayerReport r = compare_with(capture(*model("none"), batch()), *broken, batch(), -1000, {});
  REQUIRE(LayerReport::first(r.forward));
  CHECK(LayerReport::first(r.forward)->name == "blocks.1.attn.proj/linear");
  CHECK(LayerReport::first(r.forward)->error.not_finite_a == 0);
}

TEST_CASE("compare: models of other shapes and other layers") {
  Gpt2Config wide = small();
  wide.width = 64;
  const auto a = model("none"), b = model("none", wide);
  CHECK(message_of([&] { check_same_shapes(*a, *b); }) ==
        "compare: wte.weight is [61, 32] in A and [61, 64] in B; expected models of one shape");
  CHECK(message_of([&] {
          compare_with(capture(*a, batch()), *b, batch(), 20, {});
        }).find("expected models of one shape") != std::string::npos);
  Gpt2Config deep = small();
  deep.layers = 3;
  const LayerReport r = compare_with(capture(*a, batch()), *model("none", deep), batch(), 20, {});
  CHECK(std::ranges::find(r.only_b, "blocks.2.mlp.fc1/linear") != r.only_b.end());
  CHECK(r.only_a.empty());
}
