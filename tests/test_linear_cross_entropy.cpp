// The fused classifier under recipes and over chunks of tokens.
#include "linear_checks.h"

#include "autograd/ops.h"
#include "autograd/telemetry.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

constexpr std::int64_t kRows = 528, kVocab = 96, kWidth = 32;  // the last 256 tokens are few

Tensor some_targets(std::int64_t rows = kRows) {
  std::vector<std::int32_t> t;
  for (int i = 0; i < rows; ++i) t.push_back(i % 5 == 4 ? -1 : i * 37 % kVocab);
  return Tensor::from(t, {rows});
}

struct Head {
  Tensor x = normal({kRows, kWidth}, 1), w = normal({kVocab, kWidth}, 2), targets = some_targets();

  Head to(DType dtype) const { return {x.to(dtype), w.to(dtype), targets}; }
  Products run(const LinearRecipe& recipe, std::int64_t chunk, double scale = 1,
               Telemetry* telemetry = nullptr) const {
    const ForwardScope scope({.training = true, .seed = 4, .telemetry = telemetry});
    Parameter weight(w.clone());
    Tape tape;
    const Tape::Recording recording(tape);
    const Var in = tape.watch(x);
    const Var loss = linear_cross_entropy(in, weight, targets, recipe, {.token_chunk = chunk});
    tape.backward(loss, Tensor::full({}, scale, loss.dtype()));
    return {loss.tensor(), tape.gradient(in), weight.grad()};
  }
  // The same of a layer and a loss apart.
  Products composition(const LinearRecipe& recipe, double scale = 1) const {
    const ForwardScope scope({.training = true, .seed = 4});
    Parameter weight(w.clone());
    Tape tape;
    const Tape::Recording recording(tape);
    const Var in = tape.watch(x);
    const Var loss = cross_entropy(linear(in, weight, nullptr, recipe), targets);
    tape.backward(loss, Tensor::full({}, scale, loss.dtype()));
    return {loss.tensor(), tape.gradient(in), weight.grad()};
  }
};

void check_close(const Products& expected, const Products& got, double bound) {
  CHECK(distance(expected.y, got.y) < bound);
  CHECK(distance(expected.dx, got.dx) < bound);
  CHECK(distance(expected.dw, got.dw) < bound);
}

// Row scales, all rounding to nearest: nothing depends on how tokens are cut but the scales of
// dlogits' columns, which are a chunk's own.
LinearRecipe nearest() {
  LinearRecipe r = linear_recipe("int8_rowwise");
  r.dgrad.lhs.quant->rounding = r.wgrad.lhs.quant->rounding = Rounding::Nearest;
  return r;
}

}  // namespace

TEST_CASE("linear_cross_entropy: equals a layer and a loss apart, in any chunks") {
  for (const DType dtype : {DType::F64, DType::F32}) {
    const Head head = Head{}.to(dtype);
    const double bound = dtype == DType::F64 ? 1e-13 : 2e-6;
    for (const double scale : {1.0, -0.3}) {
      const Products apart = head.composition({}, scale);
      for (const std::int64_t chunk : {0, 1, 37, 256, 527, 528, 1000}) {
        CAPTURE(chunk);
        check_close(apart, head.run({}, chunk, scale), bound);
      }
    }
  }
}

TEST_CASE("linear_cross_entropy: all targets ignored") {
  Head head;
  head.targets.fill(-1);
  const Products got = head.run({}, 100);
  CHECK(got.y.item() == 0);
  CHECK(same_bits(got.dx, Tensor::zeros({kRows, kWidth})));
  CHECK(same_bits(got.dw, Tensor::zeros({kVocab, kWidth})));
}

TEST_CASE("linear_cross_entropy: a gradient of 1 keeps the bits, others scale them") {
  const Head head;
  for (const LinearRecipe& recipe : {LinearRecipe{}, linear_recipe("int8")}) {
    const Products one = head.run(recipe, 256), quarter = head.run(recipe, 256, 0.25);
    CHECK(same_bits(quarter.dx, ops::affine(one.dx, 0.25)));
    CHECK(same_bits(quarter.dw, ops::affine(one.dw, 0.25)));
    const Products third = head.run(recipe, 256, 1.0 / 3);
    CHECK(same_bits(third.dx, ops::affine(one.dx, 1.0 / 3)));
  }
}

TEST_CASE("linear_cross_entropy: quantized equals a quantized layer and a loss apart") {
  const Head head;
  const Products apart = head.composition(nearest());
  check_close(apart, head.run(nearest(), kRows), 1e-3);  // a code at a tie may differ
  const Products exact = head.run({}, kRows);
  CHECK(distance(exact.y, apart.y) > 1e-6);
  for (const std::int64_t chunk : {32, 100}) {
    CAPTURE(chunk);
    const Products got = head.run(nearest(), chunk);
    CHECK(distance(apart.y, got.y) < 1e-6);    // the same codes of x and W
    CHECK(distance(apart.dx, got.dx) < 1e-3);  // row scales: so too, but for ties
    CHECK(sqnr_db(exact.dw, got.dw) > 25);     // scales of dlogits' columns are a chunk's own
  }
}

TEST_CASE("linear_cross_entropy: chunks of whole groups change codes' noise only") {
  const Head head;
  LinearRecipe recipe = linear_recipe("int8");
  recipe.dgrad.lhs.quant->rounding = recipe.wgrad.lhs.quant->rounding = Rounding::Nearest;
  const Products one = head.run(recipe, kRows), chunked = head.run(recipe, 256);
  CHECK(same_bits(one.y, chunked.y));
  CHECK(same_bits(one.dx, chunked.dx));
  CHECK(distance(one.dw, chunked.dw) < 1e-6);
}

TEST_CASE("linear_cross_entropy: producers' codes have the bits of encodings apart") {
  Head head;
  head.x = head.x.to(DType::BF16);  // what quant_dlogits takes
  for (const char* text : {"int8", "int8,target=encoded", "int8_block128"}) {
    CAPTURE(text);
    LinearRecipe apart = linear_recipe(text);
    apart.fuse = false;
    const Products a = head.run(linear_recipe(text), 256), b = head.run(apart, 256);
    CHECK(same_bits(a.y, b.y));
    CHECK(same_bits(a.dx, b.dx));
    CHECK(same_bits(a.dw, b.dw));
    Telemetry telemetry;
    CHECK(same_bits(a.dw, head.run(linear_recipe(text), 256, 1, &telemetry).dw));
    CHECK(telemetry.stats().count({"", "dgrad.lhs"}) == 1);
  }
}

TEST_CASE("linear_cross_entropy: exact targets are added to codes of all other classes") {
  // By the definition, in f64: q(dlogits without targets)·W + term·W[target], likewise dW.
  const Head head = Head{}.to(DType::F64);
  LinearRecipe recipe;
  recipe.dgrad.lhs = encoding("int4:row");
  recipe.wgrad.lhs = encoding("int4:row");
  recipe.exact_target = true;
  const Products got = head.run(recipe, kRows, -0.3);

  Tensor d = ops::matmul(head.x, head.w.t());
  double count = 0;
  for (const std::int32_t t : head.targets.to_vector<std::int32_t>()) count += t >= 0;
  ops::cross_entropy_gradient(d, head.targets, Tensor::full({1}, 1 / count, DType::F64));
  Tensor terms = Tensor::zeros(d.shape(), DType::F64);
  for (std::int64_t i = 0; i < kRows; ++i) {
    const std::int32_t t = head.targets.data<std::int32_t>()[i];
    if (t >= 0) std::swap(terms.data<double>()[i * kVocab + t], d.data<double>()[i * kVocab + t]);
  }
  const QuantSpec spec = *recipe.dgrad.lhs.quant;
  const Tensor rows = fake_quantize(d, spec), cols = fake_quantize(ops::contiguous(d.t()), spec);
  const auto scaled = [](const Tensor& a, const Tensor& b) {
    return ops::affine(ops::add(a, b), -0.3);
  };
  const Tensor dx = scaled(ops::matmul(rows, head.w), ops::matmul(terms, head.w));
  const Tensor dw = scaled(ops::matmul(cols, head.x), ops::matmul(terms.t(), head.x));
  CHECK(distance(dx, got.dx) < 1e-12);
  CHECK(distance(dw, got.dw) < 1e-12);

  // The target's term is what the range of a row is spent on.
  const Products exact = head.run({}, kRows, -0.3);
  recipe.exact_target = false;
  const Products encoded = head.run(recipe, kRows, -0.3);
  CHECK(sqnr_db(exact.dx, got.dx) > sqnr_db(exact.dx, encoded.dx) + 4);
  CHECK(sqnr_db(exact.dw, got.dw) > sqnr_db(exact.dw, encoded.dw) + 1);
}

TEST_CASE("linear_cross_entropy: exact targets of codes, in chunks and of bf16") {
  // Even logits, as a model's are: p spreads over many classes.
  Head wide{.x = ops::affine(normal({kRows, 256}, 1), 0.3),
            .w = ops::affine(normal({512, 256}, 2), 0.3),
            .targets = some_targets()};
  struct Case {
    std::string recipe;
    double dx, dw;  // dB gained at least
  };
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const auto& [recipe, more_dx, more_dw] : {Case{"int8", 8, 8},
                                                   {"int8_rowwise,target=exact", 8, 4},
                                                   {"int8_block128,target=exact", 5, 5},
                                                   {"w8a8g8,target=exact", -0.1, 8},
                                                   {"fp8_rowwise,target=exact", 0, -0.5},
                                                   // A product of values keeps its precision.
                                                   {"int8,wgrad=none", 8, -0.1},
                                                   {"int8,dgrad=none", -0.1, 8},
                                                   {"int8_switchback,target=exact", 8, -0.1}}) {
      CAPTURE(recipe);
      CAPTURE(dtype);
      const Head head = wide.to(dtype);
      LinearRecipe encoded = linear_recipe(recipe);
      const Products exact = wide.run({}, kRows), got = head.run(encoded, 256);
      REQUIRE(encoded.exact_target);
      encoded.exact_target = false;
      const Products without = head.run(encoded, 256);
      CHECK(same_bits(got.y, without.y));
      CHECK(sqnr_db(exact.dx, got.dx) > sqnr_db(exact.dx, without.dx) + more_dx);
      CHECK(sqnr_db(exact.dw, got.dw) > sqnr_db(exact.dw, without.dw) + more_dw);
    }
  // Nothing is taken out of what is not encoded.
  LinearRecipe none;
  none.exact_target = true;
  CHECK(same_bits(wide.run({}, 256).dx, wide.run(none, 256).dx));
}

TEST_CASE("linear_cross_entropy: only the wanted gradients are made") {
  const Head head;
  const auto peak = [&](bool for_x, bool for_weight) {
    reset_peak_memory(kMeta);
    const std::int64_t before = memory_stats(kMeta).current;
    const Tensor x = Tensor::empty(head.x.shape(), DType::F32, kMeta);
    Parameter weight(Tensor::empty(head.w.shape(), DType::F32, kMeta));
    weight.requires_grad = for_weight;
    Tape tape;
    const Tape::Recording recording(tape);
    const Var in = for_x ? tape.watch(x) : Var(x);
    const Var loss = linear_cross_entropy(in, weight, Tensor::empty({kRows}, DType::I32, kMeta), {},
                                          {.token_chunk = 16});
    CHECK(loss.tracked() == (for_x || for_weight));
    const std::int64_t after = memory_stats(kMeta).current;
    if (loss.tracked()) tape.backward(loss);
    CHECK(tape.size() == 0);
    CHECK(weight.has_grad() == for_weight);
    return after - before;
  };
  const std::int64_t none = peak(false, false);
  CHECK(peak(true, false) >= none + kRows * kWidth * 4);
  CHECK(peak(true, false) < none + kRows * kWidth * 4 + 1024);
  CHECK(peak(false, true) >= none + kVocab * kWidth * 4);
  CHECK(peak(false, true) < none + kVocab * kWidth * 4 + 1024);
}

TEST_CASE("linear_cross_entropy: logits never exist whole") {
  for (const char* text : {"none", "int8"}) {
    const auto peak = [&](std::int64_t chunk) {
      reset_peak_memory(kMeta);
      const std::int64_t before = memory_stats(kMeta).current;
      Parameter weight(Tensor::empty({4096, 64}, DType::F32, kMeta));
      Tape tape;
      const Tape::Recording recording(tape);
      const Var x = tape.watch(Tensor::empty({8192, 64}, DType::BF16, kMeta));
      tape.backward(linear_cross_entropy(x, weight, Tensor::empty({8192}, DType::I32, kMeta),
                                         linear_recipe(text), {.token_chunk = chunk}));
      return memory_stats(kMeta).peak - before;
    };
    const std::int64_t logits = 8192 * 4096 * 2;
    CHECK(peak(8192) > logits);
    CHECK(peak(512) < peak(8192) - logits * 7 / 8);
  }
}

TEST_CASE("linear_cross_entropy: a weight's one scale is that of the whole matrix") {
  Head head;
  head.w.slice(0, 90, 91).fill(50);
  for (const Mode mode : {Mode::Real, Mode::Simulated}) {
    LinearRecipe recipe;
    recipe.fprop = {encoding("int8:row"), encoding("int8:tensor"), mode};
    const Tensor one = head.run(recipe, kRows).y, chunked = head.run(recipe, 32).y;
    CHECK(distance(one, chunked) < 1e-6);
    CHECK(distance(head.run({}, kRows).y, one) > 1e-4);  // the coarse scale shows
  }
}

TEST_CASE("linear_cross_entropy: scales over tokens") {
  const Head head;
  // Tiles must not be cut.
  LinearRecipe recipe = linear_recipe("int8_block32");
  CHECK(distance(head.run(recipe, kRows).y, head.run(recipe, 32).y) < 1e-6);
  CHECK(error_of([&] { head.run(recipe, 40); }) ==
        "linear_cross_entropy: token chunks cut the scale tiles of 32 tokens at token 40; choose a "
        "multiple as token_chunk");
  // A simulated scale over all tokens is one, whatever the chunk.
  recipe = linear_recipe("g8_tensor");
  const Products one = head.run(recipe, kRows), asked = head.run(recipe, 32);
  CHECK(same_bits(one.dx, asked.dx));
  CHECK(same_bits(one.dw, asked.dw));
  CHECK_FALSE(same_bits(one.dw, head.run({}, kRows).dw));
}

TEST_CASE("linear_cross_entropy: presets stay close to floats over chunks") {
  const Head head;
  const Products exact = head.run({}, kRows);
  for (const char* name : {"int8", "int8_rowwise", "int8_switchback", "int8_block32", "w8a8g8",
                           "w8a8g8_ste", "w8a8g8_tim", "fp8_tensorwise", "fp8_rowwise",
                           "fp8_rowwise,dgrad.lhs=e5m2:row:sr:recip"}) {  // dlogits stochastic
    CAPTURE(name);
    const Products got = head.run(linear_recipe(name), 256);
    CHECK(sqnr_db(exact.y, got.y) > 30);
    CHECK(sqnr_db(exact.dx, got.dx) > 20);
    CHECK(sqnr_db(exact.dw, got.dw) > 20);
  }
}

TEST_CASE("linear_cross_entropy: losses a row, and bf16") {
  const Head head;
  Parameter weight(head.w.clone());
  const Tensor losses = classifier_losses(head.x, weight, head.targets, {}, {.token_chunk = 40});
  double total = 0, count = 0;
  const std::vector<double> each = losses.to_vector<double>();
  const std::vector<std::int32_t> t = head.targets.to_vector<std::int32_t>();
  for (std::size_t i = 0; i < each.size(); ++i) {
    if (t[i] < 0) CHECK(each[i] == 0);
    total += each[i], count += t[i] >= 0;
  }
  const Products exact = head.run({}, kRows);
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
    tape.backward(linear_cross_entropy(head.x, weight, head.targets, {}, {.token_chunk = 40}));
  }
  CHECK(distance(ops::affine(once, 2), weight.grad()) < 1e-6);
}

TEST_CASE("linear_cross_entropy: says what does not fit") {
  Head head;
  Parameter w(head.w.clone());
  w.name = "head";
  const auto error = [&](const Tensor& x, const Tensor& targets, std::int64_t chunk = 32) {
    return error_of([&] { linear_cross_entropy(x, w, targets, {}, {.token_chunk = chunk}); });
  };
  CHECK(
      error(normal({kRows, 3}, 1), head.targets) ==
      "linear_cross_entropy: got x [528, 3] and weight [96, 32] (head), expected [..., C] and [V, "
      "C]");
  CHECK(error(head.x, Tensor::from(std::vector<std::int32_t>{1}, {1}))
            .find("expected one i32 a row") != std::string::npos);
  CHECK(error(head.x, head.targets, -1).find("got token_chunk -1") != std::string::npos);
  for (const std::int32_t bad : {-2, 96}) {
    Tensor targets = head.targets.clone();
    targets.data<std::int32_t>()[7] = bad;
    const std::string expected = fmt::format("cross_entropy: got target {} in row 7", bad);
    CHECK(error(head.x, targets).find(expected) == 0);
    CHECK(error_of([&] { cross_entropy(normal({kRows, 96}, 1), targets); }).find(expected) == 0);
  }
}
