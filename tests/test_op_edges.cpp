// What the table of operations cannot say: kinks, ties, NaN, contexts, errors.
#include <limits>

#include "autograd/checkpoint.h"
#include "autograd/context.h"
#include "autograd/linear.h"
#include "autograd/ops.h"
#include "autograd/telemetry.h"
#include "quant/recipe.h"
#include "tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

Tensor numbers(const std::vector<float>& v) {
  return Tensor::from(v, {static_cast<std::int64_t>(v.size())});
}

// dx of Σ dy·f(x) with dy = 1, 2, 3, …
template <class F>
Tensor slope(const Tensor& x, F&& f) {
  Tape tape;
  const Tape::Recording recording(tape);
  const Var leaf = tape.watch(x);
  const Var y = f(leaf);
  tape.backward(y, ops::affine(Tensor::arange(y.shape().numel()), 1, 1).view(y.shape()));
  return tape.gradient(leaf);
}

}  // namespace

TEST_CASE("autograd: gradients at kinks and bounds") {
  const Tensor x = numbers({-1, 0, 1});
  check_close(slope(x, [](const Var& v) { return abs(v); }), {-1, 0, 3}, 0);
  check_close(slope(x, [](const Var& v) { return relu(v); }), {0, 0, 3}, 0);
  check_close(slope(x, [](const Var& v) { return clamp(v, -1, 0.5); }), {1, 2, 0}, 0);
  check_close(slope(x, [](const Var& v) { return pow(v, 0); }), {0, 0, 0}, 0);
  check_close(slope(x, [](const Var& v) { return pow(v, 1); }), {1, 2, 3}, 0);
}

TEST_CASE("autograd: gradients of ties") {
  const Tensor x = numbers({2, 5, 5, 1});
  check_close(slope(x, [](const Var& v) { return max(v); }), {0, 0.5, 0.5, 0}, 0);
  check_close(slope(x, [](const Var& v) { return min(v); }), {0, 0, 0, 1}, 0);
  const Tensor fives = Tensor::full({4}, 5);
  check_close(slope(x, [&](const Var& v) { return maximum(v, fives); }), {0, 2, 3, 0}, 0);
  check_close(slope(x, [&](const Var& v) { return maximum(fives, v); }), {0, 0, 0, 0}, 0);
  check_close(slope(x, [&](const Var& v) { return minimum(v, fives); }), {1, 2, 3, 4}, 0);
}

TEST_CASE("autograd: NaN spreads through maximum and minimum from either side") {
  const Tensor one = numbers({1}), nan = numbers({static_cast<float>(kNan)});
  for (const auto& [a, b] : {std::pair{one, nan}, std::pair{nan, one}}) {
    check_close(maximum(a, b).tensor(), {kNan}, 0);
    check_close(minimum(a, b).tensor(), {kNan}, 0);
  }
}

TEST_CASE("autograd: dropout is the identity in evaluation and for p = 0") {
  const Tensor x = random({64}, DType::F32);
  CHECK(same_bits(dropout(x, 0.5).tensor(), x));
  const ForwardScope scope({.training = true});
  CHECK(same_bits(dropout(x, 0).tensor(), x));
  CHECK_FALSE(same_bits(dropout(x, 0.5).tensor(), x));
  CHECK(error_of([&] { dropout(x, 1); }) == "dropout: got p = 1, expected [0, 1)");
  // No dropout on attention's probabilities either.
  const Tensor qkv = random({1, 4, 12}, DType::F32);
  const Tensor trained = self_attention(qkv, 2, true, 0.5).tensor();
  const ForwardScope evaluation({});
  CHECK(same_bits(self_attention(qkv, 2, true, 0.5).tensor(), self_attention(qkv, 2).tensor()));
  CHECK_FALSE(same_bits(self_attention(qkv, 2).tensor(), trained));
}

TEST_CASE("autograd: draws follow seed, module, micro-step and step") {
  const Tensor x = Tensor::full({64}, 1);
  std::vector<Tensor> masks;
  std::uint32_t step = 1;
  const std::string path = "block";
  masks.push_back([&] {
    const ForwardScope scope({.training = true, .seed = 1});
    return dropout(x, 0.5).tensor();
  }());
  for (const ForwardContext& c : {ForwardContext{.training = true, .seed = 2},
                                  ForwardContext{.training = true, .seed = 1, .step = &step},
                                  ForwardContext{.training = true, .seed = 1, .micro_step = 1}}) {
    const ForwardScope scope(c);
    masks.push_back(dropout(x, 0.5).tensor());
  }
  {
    const ForwardScope scope({.training = true, .seed = 1});
    const ModuleScope module(path);
    masks.push_back(dropout(x, 0.5).tensor());
    CHECK(same_bits(dropout(x, 0.5).tensor(), masks.back()));
  }
  for (std::size_t i = 0; i < masks.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) CHECK_FALSE(same_bits(masks[i], masks[j]));
}

TEST_CASE("autograd: cross_entropy counts more rows than bf16 can") {
  const Tensor logits = Tensor::zeros({1001, 4}, DType::BF16);
  const Tensor targets = Tensor::zeros({1001}, DType::I32);
  const Tensor loss = cross_entropy(logits, targets).tensor();
  CHECK(loss.dtype() == DType::F32);
  CHECK(loss.item() == doctest::Approx(std::log(4.0)).epsilon(1e-5));
}

TEST_CASE("autograd: empty batches run through") {
  Parameter w(random({3, 4}, DType::F32)), gain(random({4}, DType::F32));
  Tape tape;
  const Tape::Recording recording(tape);
  const Var x = tape.watch(Tensor::empty({0, 4}));
  const Var y = linear(layer_norm(rms_norm(gelu(x), gain), gain, nullptr), w, nullptr, {});
  tape.backward(sum(y));
  CHECK(tape.gradient(x).shape() == Shape({0, 4}));
  check_close(w.grad(), std::vector<double>(12), 0);
  check_close(gain.grad(), std::vector<double>(4), 0);
}

TEST_CASE("telemetry: a checkpointed layer reports once") {
  Parameter w(random({8, 8}, DType::F32));
  const LinearRecipe recipe = recipes::parse("w8a8").linear;
  const Tensor x = random({4, 8}, DType::F32);
  Telemetry telemetry;
  const ForwardScope scope({.training = true, .telemetry = &telemetry});
  Tape tape;
  const Tape::Recording recording(tape);
  tape.backward(sum(checkpoint([&](const Var& v) { return linear(v, w, nullptr, recipe); }, x)));
  CHECK(telemetry.stats().at({"", "fprop.lhs"}).count == x.numel());
}
