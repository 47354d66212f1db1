// A small GPT-2 trained with updates at the end of a step or in backward, and all it ends with.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "autograd/context.h"
#include "autograd/tape.h"
#include "models/gpt2.h"
#include "optim/adam.h"
#include "optim/encodings.h"
#include "tensor/recorded_work.h"
#include "tests/in_sample.h"

namespace nibble::testing {

struct InBackwardCase {
  std::string recipe;
  bool tied = true, checkpointed = false, keeps = false;  // encodings
  DType compute = DType::F32;
};
// weights=f32 | bf16 | int8, every orientation of a weight, a reused one, codes of the head.
inline std::vector<InBackwardCase> in_backward_cases() {
  std::vector<InBackwardCase> all;
  for (const char* recipe :
       {"int8", "none", "none,weights=bf16", "none,weights=int8", "int8,weights=bf16",
        "int8,weights=int8", "int8_block32,weights=bf16", "int8_rowwise,lm_head=on,weights=int8"})
    for (const bool tied : {true, false})
      for (const bool checkpointed : {false, true})
        all.push_back({recipe, tied, checkpointed, tied != checkpointed});
  return all;
}

enum class When { AtEnd, InBackward, Recorded };

struct InBackwardEnd {
  std::vector<std::pair<std::string, Tensor>> tensors;  // weights, states and counters
  std::vector<double> losses, norms;
  std::int64_t gradients_peak = 0;  // bytes
};

inline InBackwardEnd train_in_backward(const InBackwardCase& c, When when, Device device) {
  const std::uint32_t steps = sampled_count(5, 3), bad = steps > 3 ? 2 : 1;
  const Recipe recipe = recipes::parse(c.recipe);
  Gpt2Config config;
  config.vocab = 2176, config.context = 32, config.layers = sampled_count(2, 1), config.heads = 2,
  config.width = 64;
  config.token_chunk = 96, config.embedding_dropout = config.residual_dropout = 0.1;
  config.tie_embeddings = c.tied, config.checkpoint_blocks = c.checkpointed;
  config.compute = c.compute;
  Gpt2 model(config, recipe, 3, device, [&](Parameter& p) {
    if (p.shape().rank() < 2) return;
    if (recipe.weights == WeightStorage::BF16) set_weight_storage(p, DType::BF16);
    if (recipe.weights == WeightStorage::Int8) set_weight_storage_int8(p);
  });
  AdamOptions options{.seed = 5};
  options.m.codec = find_codec("dyn4:group32:packed"),
  options.v.codec = find_codec("dynu8:group256");
  AdamW adam({{parameters(model), 1, 0.1}}, options);
  StepState state(device);
  Tape tape;
  if (when != When::AtEnd) {
    for (Parameter* p : parameters(model)) p->keeps_encodings = c.keeps;
    tape.on_grad_ready([&](Parameter& p) { adam.update_now(p, state); });
  }
  Tensor ids = Tensor::zeros({4, 32}, DType::I32, device);
  const auto queue = [&] {
    const ForwardScope scope({.training = true, .seed = 9, .step = state.step_pointer()});
    const Tape::Recording recording(tape);
    const Var loss = model.loss(ids, ids);
    accumulate_loss(state, loss.tensor(), 1);
    tape.backward(loss);
    if (when != When::AtEnd) return adam.finish_updates(state);
    queue_clip_gradients(parameters(model), 0, state);
    adam.step(state);
  };
  std::unique_ptr<RecordedWork> recorded;
  if (when == When::Recorded) recorded = std::make_unique<RecordedWork>(device);
  InBackwardEnd end;
  reset_peak_memory(device);
  for (std::uint32_t step = 0; step < steps; ++step) {
    state.begin(step, 3e-3);
    if (step == bad) state.mark_bad();
    ids.copy_from(Tensor::uniform({4, 32}, 0, 160, RngKey{5, 1 + step}).to(DType::I32).to(device));
    if (recorded && step > 0) {
      keep_encodings(parameters(model));
      if (!recorded->recorded()) recorded->record(queue);
      recorded->replay();
    } else {
      queue();
    }
    const StepScalars s = state.read();
    end.losses.push_back(s.loss), end.norms.push_back(s.norm);
    state.clear_bad();
  }
  end.gradients_peak = memory_by_scope(device)["gradients"].peak;
  const auto add = [&](const std::string& name, const Tensor& tensor) {
    end.tensors.emplace_back(name, tensor.to(kCpu).clone());
  };
  for (Parameter* p : parameters(model)) {
    if (p->is_quantized()) {
      add(p->name + "/codes", p->quantized().payload());
      add(p->name + "/scales", p->quantized().scales());
    } else {
      add(p->name, p->storage());
    }
  }
  for (const auto& [name, tensor] : adam.state_tensors()) add(name, tensor);
  return end;
}

}  // namespace nibble::testing
