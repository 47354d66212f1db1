// The fused classifier under recipes and over chunks of the vocabulary.
#include "linear_checks.h"

#include "autograd/ops.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

constexpr std::int64_t kRows = 24, kVocab = 96, kWidth = 32;

Tensor some_targets() {
  std::vector<std::int32_t> t;
  for (int i = 0; i < kRows; ++i) t.push_back(i % 5 == 4 ? -1 : i * 37 % kVocab);
  return Tensor::from(t, {kRows});
}

struct Head {
  Tensor x = normal({kRows, kWidth}, 1), w = normal({kVocab, kWidth}, 2), targets = some_targets();

  Products run(const LinearRecipe& recipe, std::int64_t chunk, double scale = 1) const {
    const ForwardScope scope({.training = true, .seed = 4});
    Parameter weight(w.clone());
    Tape tape;
    const Tape::Recording recording(tape);
    const Var in = tape.watch(x);
    const Var loss = linear_cross_entropy(in, weight, targets, recipe, {.vocab_chunk = chunk});
    tape.backward(loss * scale);
    return {loss.tensor(), tape.gradient(in), weight.grad()};
  }
};

// Row scales, all rounding to nearest: nothing depends on how the vocabulary is cut but the scales
// of dlogits' rows, which are a chunk's own.
LinearRecipe nearest() {
  LinearRecipe r = linear_recipe("int8_rowwise");
  r.dgrad.lhs.quant->rounding = r.wgrad.lhs.quant->rounding = Rounding::Nearest;
  return r;
}

}  // namespace

TEST_CASE("linear_cross_entropy: chunks equal one chunk in floats") {
  const Head head;
  const Products one = head.run({}, kVocab);
  for (const std::int64_t chunk : {1, 32, 40, 95, 1000}) {
    CAPTURE(chunk);
    const Products got = head.run({}, chunk);
    CHECK(distance(one.y, got.y) < 1e-6);
    CHECK(distance(one.dx, got.dx) < 1e-6);
    CHECK(distance(one.dw, got.dw) < 1e-6);
  }
  const Products twice = head.run({}, 40, 2);
  CHECK(distance(ops::affine(one.dx, 2), twice.dx) < 1e-6);
  CHECK(distance(ops::affine(one.dw, 2), twice.dw) < 1e-6);
}

TEST_CASE("linear_cross_entropy: equals linear followed by cross_entropy") {
  const Head head;
  for (const LinearRecipe& recipe : {LinearRecipe{}, nearest()}) {
    CAPTURE(recipe.name);
    Parameter weight(head.w.clone());
    Tape tape;
    const Tape::Recording recording(tape);
    const Var in = tape.watch(head.x);
    const Var loss = cross_entropy(linear(in, weight, nullptr, recipe), head.targets);
    tape.backward(loss);
    const Products fused = head.run(recipe, kVocab);
    CHECK(distance(loss.tensor(), fused.y) < 1e-6);
    CHECK(distance(tape.gradient(in), fused.dx) < 1e-3);  // a code at a tie may differ
    CHECK(distance(weight.grad(), fused.dw) < 1e-3);
  }
}

TEST_CASE("linear_cross_entropy: quantized chunks equal one quantized chunk") {
  const Head head;
  const Products one = head.run(nearest(), kVocab), exact = head.run({}, kVocab);
  CHECK(distance(exact.y, one.y) > 1e-6);
  CHECK(sqnr_db(exact.dx, one.dx) > 20);
  CHECK(sqnr_db(exact.dw, one.dw) > 20);
  for (const std::int64_t chunk : {32, 40}) {
    CAPTURE(chunk);
    const Products got = head.run(nearest(), chunk);
    CHECK(distance(one.y, got.y) < 1e-6);    // row scales: the same codes
    CHECK(distance(one.dw, got.dw) < 1e-3);  // so too, but for ties
    CHECK(distance(one.dx, got.dx) < 0.02);  // scales of dlogits' rows are a chunk's own
    CHECK(sqnr_db(exact.dx, got.dx) > 20);
  }
}

TEST_CASE("linear_cross_entropy: a weight's one scale is that of the whole matrix") {
  Head head;
  head.w.slice(0, 90, 91).fill(50);  // in the last chunk
  for (const Mode mode : {Mode::Real, Mode::Simulated}) {
    LinearRecipe recipe;
    recipe.fprop = {encoding("int8:row"), encoding("int8:tensor"), mode};
    const Tensor one = head.run(recipe, kVocab).y, chunked = head.run(recipe, 32).y;
    CHECK(distance(one, chunked) < 1e-6);
    CHECK(distance(head.run({}, kVocab).y, one) > 1e-3);  // the coarse scale shows
  }
}

TEST_CASE("linear_cross_entropy: tiles over the vocabulary must not be cut") {
  const Head head;
  LinearRecipe recipe = linear_recipe("int8_block32");
  const Products one = head.run(recipe, kVocab), chunked = head.run(recipe, 32);
  CHECK(distance(one.y, chunked.y) < 1e-6);
  CHECK(error_of([&] { head.run(recipe, 40); }) ==
        "linear_cross_entropy: vocabulary chunks cut the scale tiles of 32 rows at row 40; choose "
        "a multiple as vocab_chunk");
}

TEST_CASE("linear_cross_entropy: presets stay close to floats over chunks") {
  const Head head;
  const Products exact = head.run({}, kVocab);
  for (const char* name : {"int8", "int8_rowwise", "int8_switchback", "int8_block32", "w8a8g8",
                           "w8a8g8_ste", "w8a8g8_tim"}) {
    CAPTURE(name);
    const Products got = head.run(linear_recipe(name), 32);
    CHECK(sqnr_db(exact.y, got.y) > 30);
    CHECK(sqnr_db(exact.dx, got.dx) > 20);
    CHECK(sqnr_db(exact.dw, got.dw) > 20);
  }
}

TEST_CASE("linear_cross_entropy: losses a row, and bf16") {
  const Head head;
  Parameter weight(head.w.clone());
  const Tensor losses = classifier_losses(head.x, weight, head.targets, {}, {.vocab_chunk = 40});
  double total = 0, count = 0;
  const std::vector<double> each = losses.to_vector<double>();
  const std::vector<std::int32_t> t = head.targets.to_vector<std::int32_t>();
  for (std::size_t i = 0; i < each.size(); ++i) {
    if (t[i] < 0) CHECK(each[i] == 0);
    total += each[i], count += t[i] >= 0;
  }
  const Products exact = head.run({}, kVocab);
  CHECK(total / count == doctest::Approx(exact.y.item()).epsilon(1e-6));
  Head narrow = head;
  narrow.x = head.x.to(DType::BF16);
  const Products got = narrow.run({}, 40);
  CHECK(got.y.dtype() == DType::F32);
  CHECK(got.dx.dtype() == DType::BF16);
  CHECK(sqnr_db(exact.dx, got.dx) > 30);
  CHECK(sqnr_db(exact.dw, got.dw) > 30);
}

TEST_CASE("linear_cross_entropy: gradients accumulate") {
  const Head head;
  const Tensor once = head.run({}, 40).dw.clone();
  Parameter weight(head.w.clone());
  for (int i = 0; i < 2; ++i) {
    Tape tape;
    const Tape::Recording recording(tape);
    tape.backward(linear_cross_entropy(head.x, weight, head.targets, {}, {.vocab_chunk = 40}));
  }
  CHECK(distance(ops::affine(once, 2), weight.grad()) < 1e-6);
}

TEST_CASE("linear_cross_entropy: says what does not fit") {
  Head head;
  Parameter w(head.w.clone());
  w.name = "head";
  const auto error = [&](const Tensor& x, const Tensor& targets, std::int64_t chunk = 32) {
    return error_of([&] { linear_cross_entropy(x, w, targets, {}, {.vocab_chunk = chunk}); });
  };
  CHECK(error(normal({kRows, 3}, 1), head.targets) ==
        "linear_cross_entropy: got x [24, 3] and weight [96, 32] (head), expected [..., C] and [V, "
        "C]");
  CHECK(error(head.x, Tensor::from(std::vector<std::int32_t>{1}, {1}))
            .find("expected one i32 a row") != std::string::npos);
  CHECK(error(head.x, head.targets, 0).find("got vocab_chunk 0") != std::string::npos);
  for (const std::int32_t bad : {-2, 96}) {
    Tensor targets = head.targets.clone();
    targets.data<std::int32_t>()[7] = bad;
    const std::string expected = fmt::format("cross_entropy: got target {} in row 7", bad);
    CHECK(error(head.x, targets).find(expected) == 0);
    CHECK(error_of([&] { cross_entropy(normal({kRows, 96}, 1), targets); }).find(expected) == 0);
  }
}
