// A training step of a configuration without its data: what planning and measuring run.
#pragma once

#include <memory>

#include "apps/train/batch_stage.h"
#include "apps/train/build.h"
#include "apps/train/updates.h"
#include "autograd/tape.h"
#include "quant/scale_history.h"

namespace nibble::train {

// A model in training, on Meta or for real; the tokens are of no consequence. Its memory is counted
// in the scopes of a real run.
class SampleStep {
 public:
  // `planned`: the device that a step on Meta stands for.
  SampleStep(const TrainConfig& config, std::int64_t dataset_vocab, Device device,
             Device planned = kCpu);

  void micro_step();  // one micro-batch, forward and backward
  void update();

  LanguageModel& model() { return *model_; }
  const Optimizer& optimizer() const { return *optimizer_; }
  const ScaleHistory& scales() const { return scales_; }
  const Tape& tape() const { return tape_; }

 private:
  const TrainConfig& config_;
  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<Optimizer> optimizer_;
  StepState state_;
  ScaleHistory scales_;
  Tape tape_;
  Updates updates_;
  std::vector<BatchStage::Pair> batches_;  // of all micro-batches, as a run has them
};

}  // namespace nibble::train
