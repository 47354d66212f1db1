// A small GPT-2 trained for a few steps on random tokens, and all that it ends with.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "autograd/context.h"
#include "autograd/tape.h"
#include "models/gpt2.h"
#include "optim/adam.h"

namespace nibble::testing {

inline Gpt2Config small_gpt2(DType compute) {
  Gpt2Config c;
  c.vocab = 300, c.context = 64, c.layers = 2, c.heads = 2, c.width = 128, c.compute = compute;
  c.token_chunk = 128;
  return c;
}

inline Tensor small_gpt2_tokens(std::uint32_t site, Device device) {
  return Tensor::uniform({4, 64}, 0, 300, RngKey{5, site}).to(DType::I32).to(device);
}

struct Steps {
  std::vector<double> losses;
  std::vector<std::pair<std::string, Tensor>> gradients;  // of the first step
  std::vector<std::pair<std::string, Tensor>> weights;    // at the end
  std::vector<std::string> handovers;                     // of the last step
};

inline Steps train_small_gpt2(const std::string& recipe_text, const Gpt2Config& config,
                              Device device, int steps) {
  Gpt2 model(config, recipes::parse(recipe_text), 42, device);
  AdamOptions options;
  options.m.codec = find_codec("dyn8:group256");
  options.v.codec = find_codec("dynu8:group256");
  AdamW adam({{parameters(model), 1, 0.1}}, options);
  StepState state(device);
  Tape tape;
  Steps out;
  for (int step = 0; step < steps; ++step) {
    state.begin(static_cast<std::uint32_t>(step), 3e-3);
    const ForwardScope scope({.training = true, .seed = 9, .step = state.step_pointer()});
    const Tensor ids = small_gpt2_tokens(1 + static_cast<std::uint32_t>(step % 2), device);
    const Tape::Recording recording(tape);
    const Var loss = model.loss(ids, ids);
    out.losses.push_back(loss.item());
    tape.backward(loss);
    if (step == 0)
      for (const Parameter* p : parameters(model))
        out.gradients.emplace_back(p->name, p->grad().to(kCpu).clone());
    clip_gradients(parameters(model), 1, state);
    adam.step(state);
  }
  for (const Tape::Handover& h : tape.handovers())
    out.handovers.push_back(
        fmt::format("{} of {} by {}", h.gradient ? "dy" : "x", *h.reader, h.producer));
  for (Parameter* p : parameters(model))
    out.weights.emplace_back(p->name, p->dense().to(kCpu).clone());
  return out;
}

}  // namespace nibble::testing
