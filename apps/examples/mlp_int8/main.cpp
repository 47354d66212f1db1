// A two-layer MLP by hand, in full precision and with its three products on 8-bit integers, forward
// and backward, and Adam's moments in 8 bits. It learns a random function of 32 numbers.
#include <cstdio>

#include "autograd/context.h"
#include "nn/init.h"
#include "nn/layers.h"
#include "optim/adam.h"
#include "quant/recipe.h"

using namespace nibble;

namespace {

constexpr std::uint64_t kSeed = 1234;

struct Net : Module {
  explicit Net(const LinearRecipe& recipe)
      : up(32, 128, {.recipe = recipe}), down(128, 1, {.recipe = recipe}) {
    assign_paths(*this);  // names: "up.weight" …; values and random draws depend on them
    for (Parameter* p : parameters(*this)) {
      if (p->shape().rank() == 2)
        init_normal(*p, 0, 0.1, kSeed);
      else
        init_constant(*p, 0);
    }
  }
  Var operator()(const Var& x) { return down(gelu(up(x))); }
  void visit(Visitor& v) override {
    v.module("up", up);
    v.module("down", down);
  }

  Linear up, down;
};

Tensor noise(const Shape& shape, const char* purpose, std::uint32_t step = 0) {
  return Tensor::normal(shape, 0, 1, {.seed = kSeed, .site = rng_site("data", purpose, step)});
}

// The loss of the first and of the last step.
std::pair<double, double> train(const Recipe& recipe, int steps) {
  Net net(recipe.linear);
  const StateSlot m{.name = "m", .codec = find_codec(recipe.moments.m)};
  const StateSlot v{.name = "v", .codec = find_codec(recipe.moments.v)};
  AdamW adam({{.parameters = parameters(net)}}, {.m = m, .v = v, .seed = kSeed});
  const Tensor direction = noise({32, 1}, "direction");

  StepState state;
  Tape tape;
  double first = 0, loss_value = 0;
  for (int step = 0; step < steps; ++step) {
    state.begin(static_cast<std::uint32_t>(step), 3e-3);
    const Tensor x = noise({256, 32}, "x", static_cast<std::uint32_t>(step));
    const Tensor y = ops::tanh(ops::matmul(x, direction));
    // Seed and step are what stochastic rounding draws from.
    const ForwardScope scope({.training = true, .seed = kSeed, .step = state.step_pointer()});
    const Tape::Recording recording(tape);
    const Var loss = mse_loss(net(x), y);
    loss_value = loss.item();
    if (step == 0) first = loss_value;
    tape.backward(loss);
    clip_gradients(parameters(net), 1.0, state);
    adam.step(state);
  }
  return {first, loss_value};
}

}  // namespace

int main() {
  for (const char* name : {"none", "int8"}) {
    const auto [first, last] = train(recipes::parse(name), 300);
    fmt::print("{:<4}  loss {:.4f} -> {:.4f}\n", name, first, last);
  }
}
