// Updates in backward: the bits of updates at the end, the memory of one gradient, what bad values
// do.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "autograd/checkpoint.h"
#include "autograd/ops.h"
#include "in_backward_runs.h"
#include "tensor_testing.h"

namespace nibble {
namespace {

using namespace testing;

TEST_CASE("in backward: every way to store weights gives the bits of updates at the end") {
  for (const InBackwardCase& c : in_backward_cases()) {
    CAPTURE(c.recipe);
    CAPTURE(c.tied);
    CAPTURE(c.checkpointed);
    CAPTURE(c.keeps);
    const InBackwardEnd at_end = train_in_backward(c, When::AtEnd, kCpu),
                        in_backward = train_in_backward(c, When::InBackward, kCpu);
    CHECK(in_backward.losses == at_end.losses);
    CHECK(at_end.losses.back() < at_end.losses.front());
    for (std::size_t i = 0; i < at_end.norms.size(); ++i)  // summed in another order
      CHECK(in_backward.norms[i] == doctest::Approx(at_end.norms[i]).epsilon(1e-12));
    REQUIRE(in_backward.tensors.size() == at_end.tensors.size());
    for (std::size_t i = 0; i < at_end.tensors.size(); ++i) {
      CAPTURE(at_end.tensors[i].first);
      CHECK(in_backward.tensors[i].first == at_end.tensors[i].first);
      CHECK(same_bits(in_backward.tensors[i].second, at_end.tensors[i].second));
    }
    CHECK(in_backward.gradients_peak < at_end.gradients_peak);
  }
}

// y = Σ (a·x)² and (b·x)²: b's gradient is complete before a's.
struct Pair {
  Parameter a{Tensor::full({2, 3}, 0.5)}, b{Tensor::full({4, 3}, 0.25)};
  AdamW adam;
  StepState state;
  Tape tape;

  Pair() : adam(groups(), {}) {}
  std::vector<ParameterGroup> groups() {
    a.name = std::string(1, 'a'),
    b.name = std::string(1, 'b');  // g++ 12 warns falsely about literals
    return {{{&a, &b}, 1, 0}};
  }
  void step(std::uint32_t number, double max_norm, double scale_a = 1) {
    state.begin(number, 1e-2);
    tape.on_grad_ready([&, max_norm](Parameter& p) { adam.update_now(p, state, max_norm); });
    const Tape::Recording recording(tape);
    const Tensor x = Tensor::full({5, 3}, 1);
    const Var first = sum(square(linear(Tensor::full({5, 3}, scale_a), a, nullptr, {})));
    tape.backward(first + sum(square(linear(x, b, nullptr, {}))));
    adam.finish_updates(state);
  }
};

TEST_CASE("in backward: a gradient is gone once it was used") {
  Pair p;
  p.step(0, 0);
  for (const Parameter* parameter : {&p.a, &p.b}) {
    CHECK_FALSE(parameter->has_grad());
    CHECK_FALSE(parameter->grad().defined());
  }
  CHECK(p.adam.updates() == 1);
  CHECK(p.adam.skipped() == 0);
  // |∂a| = 15·√6, |∂b| = 7.5·√12
  CHECK(p.state.read().norm == doctest::Approx(15 * std::sqrt(6 + 3)));
}

TEST_CASE("in backward: each gradient is clipped by its own norm") {
  Parameter lone(Tensor::full({4, 3}, 0.25));
  lone.name = std::string(1, 'b');
  AdamW adam({{{&lone}, 1, 0}}, {});
  Pair p;
  for (std::uint32_t step = 0; step < 3; ++step) {
    p.step(step, 1.5);
    StepState state;
    state.begin(step, 1e-2);
    Tape tape;
    const Tape::Recording recording(tape);
    tape.backward(sum(square(linear(Tensor::full({5, 3}, 1), lone, nullptr, {}))));
    clip_gradients({&lone}, 1.5, state);
    adam.step(state);
    CHECK(same_bits(lone.storage(), p.b.storage()));
  }
}

// An eighth of the 24 gradients makes an update, so that three meet in one.
TEST_CASE("in backward: gradients updated together are clipped each by its own norm") {
  constexpr std::size_t kCount = 24;
  std::vector<std::unique_ptr<Parameter>> together, apart;
  std::vector<Parameter*> all;
  for (std::size_t i = 0; i < kCount; ++i)
    for (auto* list : {&together, &apart}) {
      list->push_back(std::make_unique<Parameter>(Tensor::full({5, 3}, 0.02 * (1.0 + double(i)))));
      list->back()->name = fmt::format("p{}", i);
      if (list == &together) all.push_back(list->back().get());
    }
  AdamW joint({{all, 1, 0.1}}, {});
  std::vector<std::unique_ptr<AdamW>> own;
  for (const auto& p : apart)
    own.push_back(
        std::make_unique<AdamW>(std::vector<ParameterGroup>{{{p.get()}, 1, 0.1}}, AdamOptions{}));
  const auto loss_of = [](Parameter& p) {
    return sum(square(linear(Tensor::full({4, 3}, 1), p, nullptr, {})));
  };
  StepState state;
  for (std::uint32_t step = 0; step < 3; ++step) {
    state.begin(step, 1e-2);
    {
      Tape tape;
      tape.on_grad_ready([&](Parameter& p) {
        joint.update_now(p, state, 1.5);
        CHECK_FALSE(p.has_grad());  // the optimizer has it
      });
      const Tape::Recording recording(tape);
      Var loss = loss_of(*all[0]);
      for (std::size_t i = 1; i < kCount; ++i) loss = loss + loss_of(*all[i]);
      tape.backward(loss);
      joint.finish_updates(state);
    }
    double squares = 0;
    for (std::size_t i = 0; i < kCount; ++i) {
      StepState lone;
      lone.begin(step, 1e-2);
      Tape tape;
      const Tape::Recording recording(tape);
      tape.backward(loss_of(*apart[i]));
      squares += std::pow(clip_gradients({apart[i].get()}, 1.5, lone), 2);
      own[i]->step(lone);
      CAPTURE(i);
      CHECK(same_bits(apart[i]->storage(), all[i]->storage()));
    }
    CHECK(state.read().norm == doctest::Approx(std::sqrt(squares)));
  }
  CHECK(joint.updates() == 3);
}

TEST_CASE("in backward: a bad gradient ends the step's updates, a bad step makes none") {
  Pair p;
  p.step(0, 0);
  const Tensor a = p.a.storage().clone(), b = p.b.storage().clone();
  p.step(1, 0, std::numeric_limits<double>::infinity());
  CHECK(p.state.read().bad);
  CHECK(same_bits(p.a.storage(), a));
  CHECK_FALSE(same_bits(p.b.storage(), b));  // it came first
  CHECK(p.adam.updates() == 2);
  CHECK(p.adam.skipped() == 1);
  const Tensor updated = p.b.storage().clone();
  p.step(2, 0);  // still marked
  CHECK(same_bits(p.b.storage(), updated));
  CHECK(p.adam.updates() == 2);
  CHECK(p.adam.skipped() == 2);
  p.state.clear_bad();
  p.step(3, 0);
  CHECK_FALSE(same_bits(p.a.storage(), a));
  CHECK(p.adam.updates() == 3);
}

TEST_CASE("in backward: a step that an error cut short is over with zero_grad") {
  Pair p;
  p.step(0, 0);
  p.state.begin(1, 1e-2);
  p.tape.on_grad_ready([&](Parameter& q) {
    p.adam.update_now(q, p.state);
    throw Error("test", "the disk is full");
  });
  {
    const Tape::Recording recording(p.tape);
    const Var y = sum(square(linear(Tensor::full({5, 3}, 1), p.b, nullptr, {})));
    CHECK_THROWS_WITH(p.tape.backward(y), "test: the disk is full");
  }
  CHECK(p.adam.updates() == 2);
  p.adam.zero_grad();
  p.step(2, 0);
  CHECK(p.adam.updates() == 3);
}

TEST_CASE("in backward: a parameter that no optimizer has is an error") {
  Pair p;
  Parameter stranger(Tensor::full({2, 3}, 1));
  stranger.name = "stranger";
  p.tape.on_grad_ready([&](Parameter& q) { p.adam.update_now(q, p.state); });
  const Tape::Recording recording(p.tape);
  const Var y = sum(linear(Tensor::full({5, 3}, 1), stranger, nullptr, {}));
  CHECK_THROWS_WITH(p.tape.backward(y), "optimizer: stranger is in no group");
}

}  // namespace
}  // namespace nibble
