// Delayed scaling: scales of earlier steps. Tier: exact bits.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "linear_checks.h"
#include "quant/scale_history.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

Tensor values(const std::vector<float>& x) {
  return Tensor::from(x, {1, static_cast<std::int64_t>(x.size())});
}
bool same(const QTensor& a, const QTensor& b) {
  return same_bits(a.payload(), b.payload()) && same_bits(a.scales(), b.scales());
}
float scale_of(const QTensor& q) { return q.scales().data<float>()[0]; }

// The history of one tensor, step by step.
struct Steps {
  QuantSpec spec;
  ScaleHistory scales{kCpu};
  StepState state{kCpu};
  std::uint32_t step = 0;

  explicit Steps(const char* text) : spec(parse_spec(text)) { state.begin(0, 1); }
  ScaleHistory::Entry& entry() { return scales.at("layer:x", spec.calibration.history); }
  QTensor encode(const std::vector<float>& x) {
    return quantize_delayed(values(x), spec, {}, entry());
  }
  void end(bool bad = false) {
    if (bad) state.mark_bad();
    scales.advance(state);
    state.clear_bad();
    state.begin(++step, 1);
  }
};

}  // namespace

TEST_CASE("delayed scaling: the spec's text, and what it cannot be combined with") {
  const QuantSpec spec = parse_spec("e5m2:tensor:sr:recip:delayed16");
  CHECK(spec.calibration.history == 16);
  CHECK(to_string(spec) == "e5m2:tensor:sr:recip:delayed16");
  CHECK(to_string(parse_spec("int8:tensor:absmax0.5:delayed3")) ==
        "int8:tensor:absmax0.5:delayed3");
  CHECK(to_string(parse_spec("int8:tensor:delayed3:absmax0.5")) ==
        "int8:tensor:absmax0.5:delayed3");
  for (const char* bad :
       {"e4m3:row:delayed4", "int8:tensor:asym:delayed4", "int8:tensor:mse10:delayed4",
        "e4m3:tensor:e8m0:delayed4", "e4m3:tensor:delayed5000", "e4m3:tensor:delayed-1",
        "int4:tensor:packed:delayed4", "e4m3:tensor:split3:delayed4"})
    CHECK_THROWS_AS(parse_spec(bad), Error);
  // Without a history kept, the tensor's own range decides.
  const Tensor x = values({1, -3, 2});
  CHECK(same(quantize(x, parse_spec("int8:tensor:delayed4")),
             quantize(x, parse_spec("int8:tensor"))));
}

TEST_CASE("delayed scaling: activations and gradients of real products, no weights") {
  CHECK_NOTHROW(recipes::parse("fp8_delayed"));
  CHECK(recipes::parse(recipes::to_string(recipes::parse("fp8_delayed"))) ==
        recipes::parse("fp8_delayed"));
  CHECK_THROWS_AS(recipes::parse("fp8_tensorwise,fprop.rhs=e4m3:tensor:delayed4"), Error);
  CHECK_THROWS_AS(recipes::parse("none,fprop.lhs=int8:tensor:delayed4"), Error);  // simulated
}

TEST_CASE("delayed scaling: the largest of the steps before decides, and old ones are forgotten") {
  Steps s("int8:tensor:delayed2");
  CHECK(scale_of(s.encode({127, 1})) == 1);   // nothing has been seen: its own range
  CHECK(scale_of(s.encode({-254, 1})) == 2);  // still the first step
  s.end();
  const QTensor small = s.encode({10, 3});
  CHECK(scale_of(small) == 2);  // of step 0
  CHECK(small.payload().data<std::int8_t>()[0] == 5);
  s.end();
  const QTensor beyond = s.encode({508, -508});
  CHECK(scale_of(beyond) == 2);  // of step 0, the larger one
  CHECK(beyond.payload().data<std::int8_t>()[0] == 127);
  CHECK(beyond.payload().data<std::int8_t>()[1] == -128);
  s.end();
  CHECK(scale_of(s.encode({1, 1})) == 4);  // of step 2
  s.end();
  CHECK(scale_of(s.encode({1, 1})) == 4);
  s.end();
  CHECK(scale_of(s.encode({1, 1})) == 1.0f / 127);  // of steps 3 and 4
}

TEST_CASE("delayed scaling: after zeros the scale is 1") {
  Steps s("e4m3:tensor:delayed4");
  CHECK(scale_of(s.encode({0, 0})) == 0);
  s.end();
  const QTensor q = s.encode({3, -500});
  CHECK(scale_of(q) == 1);
  CHECK(dequantize(q).to_vector() == std::vector<float>{3, -448});
}

TEST_CASE("delayed scaling: what is not finite shows at once, and bad steps leave no trace") {
  for (const float x : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    Steps s("e5m2:tensor:delayed3");
    (void)s.encode({57344, 1});
    s.end();
    CHECK(std::isnan(scale_of(s.encode({x, 1}))));
    s.end(true);
    CHECK(scale_of(s.encode({1, 2})) == 1);
    CHECK(s.entry().now.data<float>()[0] == 2);
  }
}

TEST_CASE("delayed scaling: codes are quantize's under the same scale, nearest and stochastic") {
  const Tensor x = normal({37, 53}, 5);
  for (const char* text : {"int8:tensor", "e4m3:tensor:recip", "e5m2:tensor:sr",
                           "int5:tensor:sr:recip", "dyn8:tensor"})
    for (const DType dtype : {DType::F32, DType::BF16}) {
      const QuantSpec own = parse_spec(text), delayed = parse_spec(text + std::string(":delayed2"));
      ScaleHistory scales(kCpu);
      StepState state;
      state.begin(0, 1);
      const Tensor given = x.to(dtype);
      const RngKey key{3, 4};
      CHECK(same(quantize_delayed(given, delayed, key, scales.at("x", 2)),
                 quantize(given, own, key)));
      scales.advance(state);  // the past range is now x's own
      CHECK(same(quantize_delayed(given, delayed, key, scales.at("x", 2)),
                 quantize(given, own, key)));
    }
}

TEST_CASE("delayed scaling: a first step that is bad is as if it had not been") {
  Steps s("int8:tensor:delayed2");
  (void)s.encode({508, 1});
  s.end(true);
  CHECK(s.scales.settle(true));
  CHECK(scale_of(s.encode({127, 1})) == 1);  // its own range again
  s.end();
  CHECK_FALSE(s.scales.settle(false));
  CHECK(scale_of(s.encode({1, 1})) == 1);
  s.end(true);
  CHECK_FALSE(s.scales.settle(true));  // later bad steps change nothing
  CHECK(scale_of(s.encode({1, 1})) == 1);
}

TEST_CASE("delayed scaling: histories travel by name") {
  Steps s("int8:tensor:delayed2");
  (void)s.encode({127, 1});
  s.end();
  ScaleHistory other(kCpu);
  for (const auto& [name, tensor] : s.scales.tensors()) {
    CHECK(name == "scales.layer:x");
    other.expect(name, tensor.shape());
  }
  other.expect("blocks.0.weight", {2, 3});
  const auto copies = other.tensors();
  REQUIRE(copies.size() == 1);
  Tensor copy = copies[0].second;
  copy.copy_from(s.scales.tensors()[0].second);
  CHECK(scale_of(quantize_delayed(values({2, 1}), s.spec, {}, other.at("layer:x", 2))) == 1);
  CHECK_THROWS_AS(other.at("layer:x", 3), Error);
  CHECK_THROWS_AS(other.expect("scales.y", {4}), Error);
}

TEST_CASE("delayed scaling: a linear layer's three products") {
  const LinearRecipe delayed = recipes::parse("fp8_delayed").linear,
                     own = recipes::parse("fp8_tensorwise").linear;
  const Problem whole = normal_problem();
  ScaleHistory scales(kCpu);
  StepState state;
  const auto run = [&](const LinearRecipe& recipe, double factor, ScaleHistory* history) {
    const std::string path = "layer";
    const ModuleScope module(path);
    const ForwardScope scope({.training = true, .step = state.step_pointer(), .scales = history});
    Parameter w(whole.w.clone());
    Tape tape;
    const Tape::Recording recording(tape);
    const Var x = tape.watch(ops::affine(whole.x, factor));
    const Var y = linear(x, w, nullptr, recipe);
    tape.backward(y, ops::affine(whole.dy, factor));
    return Products{y.tensor(), tape.gradient(x), w.grad()};
  };
  state.begin(0, 1);
  const Products first = run(delayed, 1, &scales), expected = run(own, 1, nullptr);
  CHECK(same_bits(first.y, expected.y));
  CHECK(same_bits(first.dx, expected.dx));
  CHECK(same_bits(first.dw, expected.dw));
  scales.advance(state);
  REQUIRE(scales.tensors().size() == 2);
  CHECK(scales.tensors()[0].first == "scales.layer:dy16");
  CHECK(scales.tensors()[1].first == "scales.layer:x16");
  state.begin(1, 1);
  // A quarter of the range in the codes of four times the step: still close, no longer equal.
  const Products second = run(delayed, 0.25, &scales), exact = run(own, 0.25, nullptr);
  CHECK_FALSE(same_bits(second.y, exact.y));
  CHECK(distance(exact.y, second.y) < 0.05);
  CHECK(distance(exact.dx, second.dx) < 0.1);  // e5m2
  CHECK(distance(exact.dw, second.dw) < 0.1);
  scales.advance(state);
  CHECK(scales.tensors()[1].second.data<float>()[1] ==
        0.25f * scales.tensors()[1].second.data<float>()[0]);
}
