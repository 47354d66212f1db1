#include "apps/train/updates.h"

namespace nibble::train {

Updates::Updates(const TrainerConfig& config, Optimizer& optimizer, StepState& state, Tape& tape)
    : config_(config), optimizer_(optimizer), state_(state), parameters_(optimizer.parameters()) {
  if (!in_backward()) return;
  // A second form of every weight may take more than the gradients that are spared.
  for (Parameter* p : parameters_) p->keeps_encodings = config.keep_encodings;
  tape.on_grad_ready(
      [this](Parameter& p) { optimizer_.update_now(p, state_, config_.clip_parameter); });
}

void Updates::finish() {
  if (in_backward()) return optimizer_.finish_updates(state_);
  queue_clip_gradients(parameters_, config_.clip, state_);
  optimizer_.step(state_);
}

void Updates::forget_gradients(Tape& tape) const {
  if (in_backward()) tape.on_grad_ready([](Parameter& p) { p.release_grad(); });
}

}  // namespace nibble::train
