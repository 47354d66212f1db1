// Updates of the optimizers, clipping, skipped steps and schedules.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "autograd/ops.h"
#include "gpt2_golden.h"
#include "nn/layers.h"
#include "optim/adam.h"
#include "optim/schedule.h"
#include "tensor_testing.h"

namespace nibble {
namespace {

using testing::golden_values;
using testing::same_bits;

void set_gradient(Parameter& p, const Tensor& g) {
  p.grad_buffer().copy_from(g);
  p.set_has_grad(true);
}
void step(Optimizer& o, double lr, std::uint32_t t = 0) {
  StepState state;
  state.begin(t, lr);
  o.step(state);
}

// ---- against PyTorch -------------------------------------------------------------------------

TEST_CASE("optim: AdamW, SGD, momentum and Nesterov equal PyTorch's") {
  const nlohmann::json golden = testing::read_golden("gpt2.json");
  for (const char* name : {"adamw", "sgd", "momentum", "nesterov"}) {
    CAPTURE(std::string(name));
    Parameter p(golden_values("optim.weight", {96}, 0x1p-16f));
    p.name = "param";
    std::unique_ptr<Optimizer> optimizer;
    const std::string word = name;
    if (word == "adamw")
      optimizer = std::make_unique<AdamW>(std::vector<ParameterGroup>{{{&p}, 1, 0.1}},
                                          AdamOptions{.beta1 = 0.9, .beta2 = 0.95});
    else
      optimizer = std::make_unique<Sgd>(
          std::vector<ParameterGroup>{{{&p}}},
          SgdOptions{.momentum = word == "sgd" ? 0 : 0.9, .nesterov = word == "nesterov"});
    for (std::size_t t = 0; t < golden[name].size(); ++t) {
      auto g = golden_values(fmt::format("optim.gradient.{}", t), {96}, 0x1p-15f).to_vector();
      for (std::size_t i = t; i < g.size(); i += 7) g[i] = 0;
      set_gradient(p, Tensor::from(g, {96}));
      step(*optimizer, static_cast<double>(t + 1) * 0x1p-8);
      CAPTURE(t);
      testing::check_close(p.storage(), golden[name][t].get<std::vector<double>>(), 2e-6, 0.5);
    }
  }
}

// ---- against the formula in double -----------------------------------------------------------

TEST_CASE("optim: one AdamW step follows its formula") {
  struct Case {
    double beta1, beta2, epsilon, decay, lr, clip, lr_scale;
  };
  for (const Case& c : {Case{0.9, 0.999, 1e-8, 0, 1e-3, 1, 1},
                        Case{0.9, 0.95, 1e-8, 0.5, 0.1, 1, 1}, Case{0, 0, 1e-3, 0.1, 0.01, 0.25, 1},
                        Case{0.8, 0.9, 1, 0, 1, 1, 0.5}, Case{0.9, 0.95, 1e-8, 0.1, 0.01, 1, 4}}) {
    CAPTURE(c.beta1);
    CAPTURE(c.epsilon);
    Parameter p(golden_values("w", {3, 7}, 0x1p-16f));
    p.name = "param";
    AdamW adam({{{&p}, c.lr_scale, c.decay}},
               {.beta1 = c.beta1, .beta2 = c.beta2, .epsilon = c.epsilon});
    std::vector<double> w = p.storage().to_vector<double>(), m(21), v(21);
    for (int t = 1; t <= 5; ++t) {
      const Tensor gradient = golden_values(fmt::format("g{}", t), {3, 7}, 0x1p-16f);
      const auto g = gradient.to_vector<double>();
      const double lr = c.lr * c.lr_scale;
      for (std::size_t i = 0; i < w.size(); ++i) {
        const double clipped = c.clip * g[i];
        m[i] = c.beta1 * m[i] + (1 - c.beta1) * clipped;
        v[i] = c.beta2 * v[i] + (1 - c.beta2) * clipped * clipped;
        // Decay first, on the weight as it was; ε outside the root, after bias correction.
        w[i] = w[i] * (1 - lr * c.decay) -
               lr * (m[i] / (1 - std::pow(c.beta1, t))) /
                   (std::sqrt(v[i] / (1 - std::pow(c.beta2, t))) + c.epsilon);
      }
      set_gradient(p, gradient);
      StepState state;
      state.begin(static_cast<std::uint32_t>(t - 1), c.lr);
      state.scalars()->clip = static_cast<float>(c.clip);
      adam.step(state);
      CAPTURE(t);
      testing::check_close(p.storage(), w, 4e-6, 0.5);
    }
    CHECK(adam.updates() == 5);
  }
}

TEST_CASE("optim: a parameter that rests at zero gradient only decays") {
  Parameter p(Tensor::full({4}, 2));
  p.name = "param";
  AdamW adam({{{&p}, 1, 0.5}}, {});
  set_gradient(p, Tensor::zeros({4}));
  step(adam, 0.1);
  testing::check_close(p.storage(), std::vector<double>(4, 2 * (1 - 0.1 * 0.5)), 1e-6);
}

TEST_CASE("optim: without a gradient nothing happens to a parameter; gradients are used once") {
  Parameter used(Tensor::full({4}, 1)), unused(Tensor::full({4}, 1));
  used.name = "used", unused.name = "unused";
  AdamW adam({{{&used, &unused}, 1, 0.5}}, {});
  const std::uint32_t version = used.version();
  set_gradient(used, Tensor::full({4}, 1));
  step(adam, 0.1);
  CHECK(used.version() > version);
  CHECK_FALSE(used.has_grad());
  testing::check_close(unused.storage(), {1, 1, 1, 1}, 0);
  const Tensor before = used.storage().clone();
  step(adam, 0.1);
  CHECK(same_bits(before, used.storage()));
  CHECK(adam.updates() == 2);
}

// ---- clipping and bad steps ------------------------------------------------------------------

TEST_CASE("optim: clip_gradients scales the global norm to at most the limit") {
  Parameter a(Tensor::zeros({2, 3})), b(Tensor::zeros({4})), idle(Tensor::zeros({5}));
  set_gradient(a, Tensor::full({2, 3}, 2));
  set_gradient(b, Tensor::full({4}, -3));
  idle.grad_buffer().fill(100);  // stale: has_grad is false
  const double norm = std::sqrt(6 * 4.0 + 4 * 9.0);
  for (const double limit : {0.0, 1.0, norm * 0.999, norm * 1.001, 100.0}) {
    CAPTURE(limit);
    StepState state;
    state.begin(0, 1);
    CHECK(clip_gradients({&a, &b, &idle}, limit, state) == doctest::Approx(norm));
    const double expected = limit > 0 && limit < norm ? limit / (norm + 1e-6) : 1;
    CHECK(static_cast<double>(state.read().clip) == doctest::Approx(expected).epsilon(1e-6));
    CHECK_FALSE(state.read().bad);
  }
  StepState state;
  CHECK_THROWS_AS(clip_gradients({&a}, -1, state), Error);
  // f32 squares would overflow here.
  set_gradient(a, Tensor::full({2, 3}, 1e30));
  CHECK(clip_gradients({&a}, 1, state) == doctest::Approx(1e30 * std::sqrt(6)));
  CHECK_FALSE(state.read().bad);
}

TEST_CASE("optim: a step with a gradient that is not finite is skipped whole and counted") {
  for (const float poison :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Parameter a(golden_values("a", {64, 64}, 0x1p-16f)), b(Tensor::full({4}, 1));
    a.name = "matrix", b.name = "vector";
    AdamOptions options;
    options.m.codec = find_codec("dyn8:group256");
    AdamW adam({{{&a, &b}, 1, 0.1}}, options);
    const auto one_step = [&](bool poisoned) {
      set_gradient(a, golden_values("g", {64, 64}, 0x1p-16f));
      set_gradient(b, Tensor::from(std::vector<float>{1, 2, poisoned ? poison : 3, 4}, {4}));
      StepState state;
      state.begin(0, 0.1);
      clip_gradients({&a, &b}, 1, state);
      adam.step(state);
      return state.read().bad;
    };
    CHECK_FALSE(one_step(false));
    std::vector<std::pair<std::string, Tensor>> before{{"matrix", a.storage().clone()},
                                                       {"vector", b.storage().clone()}};
    for (const auto& [name, t] : adam.state_tensors())
      if (name != "optimizer/skipped") before.emplace_back(name, t.clone());
    const std::uint32_t version = a.version();
    CHECK(one_step(true));
    CHECK(a.version() > version);  // codes that were drawn for this step are not the next one's
    CHECK(adam.skipped() == 1);
    CHECK(adam.updates() == 1);
    CHECK_FALSE(b.has_grad());
    for (const auto& [name, old] : before) {
      CAPTURE(std::string(name));
      if (name == "matrix") CHECK(same_bits(old, a.storage()));
      if (name == "vector") CHECK(same_bits(old, b.storage()));
      for (const auto& [now_name, now] : adam.state_tensors())
        if (now_name == name) CHECK(same_bits(old, now));
    }
    CHECK_FALSE(one_step(false));
    CHECK(adam.updates() == 2);
  }
}

TEST_CASE("optim: errors name what is wrong") {
  using doctest::Contains;
  Parameter p(Tensor::zeros({4})), nameless(Tensor::zeros({4}));
  p.name = "param";
  CHECK_THROWS_WITH(AdamW({{{&nameless}}}, {}), Contains("a parameter has no name"));
  CHECK_THROWS_WITH(AdamW({{{&p}}, {{&p}}}, {}), Contains("param is in two groups"));
  CHECK_THROWS_WITH(AdamW({{{&p}}}, {.beta2 = 1}), Contains("expected [0, 1)"));
  CHECK_THROWS_WITH(AdamW({{{&p}}}, {.epsilon = 0}), Contains("got ε = 0"));
  CHECK_THROWS_WITH(Sgd({{{&p}}}, {.momentum = 1}), Contains("got momentum 1"));
}

// ---- low-bit training ------------------------------------------------------------------------

// Fits a two-layer network to a fixed one; the loss after some steps.
double regression_loss(const char* m, const char* v, DType storage = DType::F32,
                       std::uint64_t seed = 1, Tensor* weights = nullptr) {
  Linear up(32, 128), down(128, 32);
  const auto prepare = [&](Linear& layer, const std::string& name, float scale) {
    layer.weight.name = fmt::format("{}.weight", name);
    layer.bias->name = fmt::format("{}.bias", name);
    layer.weight.storage().copy_from(golden_values(name, layer.weight.shape(), scale));
    layer.bias->storage().fill(0);
    set_weight_storage(layer.weight, storage);
  };
  prepare(up, "up", 0x1p-17f), prepare(down, "down", 0x1p-18f);
  AdamOptions options{.seed = seed};
  options.m.codec = find_codec(m), options.v.codec = find_codec(v);
  AdamW adam({{{&up.weight, &*up.bias, &down.weight, &*down.bias}}}, options);
  const Tensor teacher = golden_values("teacher", {32, 32}, 0x1p-16f);
  Tape tape;
  double loss = 0;
  for (int t = 0; t < 150; ++t) {
    const Tensor x = golden_values(fmt::format("x{}", t % 8), {64, 32}, 0x1p-15f);
    const Tensor y = ops::tanh(ops::matmul(x, teacher));
    const Tape::Recording recording(tape);
    const Var error = mse_loss(down(gelu(up(x))), y);
    loss = error.item();
    tape.backward(error);
    step(adam, 3e-3, static_cast<std::uint32_t>(t));
  }
  if (weights) *weights = up.weight.storage().clone();
  return loss;
}

TEST_CASE("optim: low-bit moments train as f32 ones do") {
  const double full = regression_loss("f32", "f32");
  CHECK(full < 0.05);
  CHECK(regression_loss("dyn8:group256", "dynu8:group256") < full * 1.1 + 0.002);
  CHECK(regression_loss("bf16", "bf16") < full * 1.1 + 0.002);
  CHECK(regression_loss("dyn4:group128:packed", "lin4u:group128:packed") < full * 1.5 + 0.005);
  CHECK(regression_loss("dyn8:group256", "dynu8:group256", DType::BF16) < full * 1.3 + 0.005);
}

TEST_CASE("optim: equal seeds give equal bits, others do not") {
  Tensor a, b, c;
  const auto train = [](std::uint64_t seed, Tensor& w) {
    return regression_loss("int4:group128:packed:sr", "dynu8:group256", DType::BF16, seed, &w);
  };
  CHECK(train(1, a) == train(1, b));
  train(2, c);
  CHECK(same_bits(a, b));
  CHECK_FALSE(same_bits(a, c));
}

// ---- schedules -------------------------------------------------------------------------------

TEST_CASE("schedule: values at every knee") {
  Schedule s{.kind = Schedule::Kind::Cosine, .peak = 2, .floor = 0.25, .warmup = 10, .total = 110};
  CHECK(s(0) == doctest::Approx(0.2));
  CHECK(s(9) == doctest::Approx(2));
  CHECK(s(10) == doctest::Approx(2));
  CHECK(s(60) == doctest::Approx(1.25));
  CHECK(s(35) == doctest::Approx(0.5 + 0.75 * (1 + std::cos(std::acos(-1.0) / 4))));
  CHECK(s(110) == doctest::Approx(0.5));
  CHECK(s(100000) == doctest::Approx(0.5));

  s.kind = Schedule::Kind::Linear;
  CHECK(s(9) == doctest::Approx(2));
  CHECK(s(60) == doctest::Approx(1.25));
  CHECK(s(85) == doctest::Approx(0.875));
  CHECK(s(500) == doctest::Approx(0.5));

  s.kind = Schedule::Kind::Constant;
  CHECK(s(4) == doctest::Approx(1));
  CHECK(s(10) == 2);
  CHECK(s(500) == 2);

  s.kind = Schedule::Kind::WarmupStableDecay, s.decay = 20;
  CHECK(s(0) == doctest::Approx(0.2));
  CHECK(s(10) == 2);
  CHECK(s(90) == 2);
  CHECK(s(100) == doctest::Approx(1.25));
  CHECK(s(110) == doctest::Approx(0.5));
  CHECK(s(500) == doctest::Approx(0.5));

  Schedule plain{.kind = Schedule::Kind::Cosine, .peak = 1, .floor = 0, .warmup = 0, .total = 2};
  CHECK(plain(0) == 1);
  CHECK(plain(1) == doctest::Approx(0.5));
  CHECK(plain(2) == doctest::Approx(0));
  // As long as, or longer than, the run: no decay, no division by zero.
  Schedule all_warm{.peak = 1, .floor = 0.1, .warmup = 50, .total = 50};
  CHECK(all_warm(49) == doctest::Approx(1));
  CHECK(all_warm(50) == doctest::Approx(1));
  CHECK(all_warm(51) == doctest::Approx(0.1));
}

TEST_CASE("schedule: words and errors") {
  using doctest::Contains;
  for (const char* name : {"cosine", "linear", "constant", "wsd"})
    CHECK(to_string(parse_schedule(name)) == name);
  CHECK_THROWS_WITH(parse_schedule("cosin"), Contains("got 'cosin', expected cosine, linear"));
  CHECK_THROWS_AS(Schedule{.peak = 0}.validate(), Error);
  CHECK_THROWS_AS(Schedule{.floor = 1.5}.validate(), Error);
  CHECK_THROWS_AS(Schedule{.warmup = -1}.validate(), Error);
  CHECK_THROWS_AS(Schedule{.total = 0}.validate(), Error);
  CHECK_THROWS_WITH(
      (Schedule{.kind = Schedule::Kind::WarmupStableDecay, .warmup = 60, .total = 100, .decay = 50})
          .validate(),
      Contains("exceed the total of 100 steps"));
}

}  // namespace
}  // namespace nibble
