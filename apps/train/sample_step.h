// A training step of a configuration without its data: what planning and measuring run.
#pragma once

#include <memory>

#include "apps/train/build.h"
#include "autograd/tape.h"

namespace nibble::train {

// One model in training, on Meta or for real; the tokens are of no consequence.
class SampleStep {
 public:
  SampleStep(const TrainConfig& config, std::int64_t dataset_vocab, Device device);

  void micro_step();  // one micro-batch, forward and backward
  void update();

  LanguageModel& model() { return *model_; }
  const Optimizer& optimizer() const { return *optimizer_; }
  std::int64_t parameter_bytes() const { return parameter_bytes_; }
  std::int64_t tokens() const { return ids_.numel(); }

 private:
  const TrainConfig& config_;
  std::unique_ptr<LanguageModel> model_;
  std::int64_t parameter_bytes_;
  std::unique_ptr<Optimizer> optimizer_;
  StepState state_;
  Tape tape_;
  Tensor ids_;
};

}  // namespace nibble::train
