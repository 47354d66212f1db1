// How a step's gradients become updates: all at its end, or each while backward runs.
#pragma once

#include <vector>

#include "apps/train/train_config.h"
#include "autograd/tape.h"
#include "optim/optimizer.h"

namespace nibble::train {

// For one tape, whose hook it takes where parameters are updated in backward; all must outlive it.
class Updates {
 public:
  Updates(const TrainerConfig& config, Optimizer& optimizer, StepState& state, Tape& tape);
  // Queues what is left of a step when its gradients are complete.
  void finish();
  // A pass over `tape` whose gradients nobody wants must not need more memory than a step.
  void forget_gradients(Tape& tape) const;
  bool in_backward() const { return config_.update == UpdateTime::InBackward; }

 private:
  const TrainerConfig& config_;
  Optimizer& optimizer_;
  StepState& state_;
  std::vector<Parameter*> parameters_;
};

}  // namespace nibble::train
