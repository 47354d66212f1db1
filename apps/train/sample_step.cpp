#include "apps/train/sample_step.h"

#include "autograd/context.h"
#include "tensor/rng.h"

namespace nibble::train {

SampleStep::SampleStep(const TrainConfig& config, std::int64_t dataset_vocab, Device device)
    : config_(config),
      model_(build_model(config, dataset_vocab, device)),
      parameter_bytes_(memory_stats(device).current),
      optimizer_(build_optimizer(config, *model_)),
      state_(device) {
  const std::int64_t batch = config.trainer.batch;
  const std::int64_t length = config.data.sequence ? config.data.sequence : model_->context();
  ids_ = Tensor::uniform({batch, length}, 0, static_cast<double>(model_->vocab()), RngKey{},
                         DType::I32, device);
  state_.begin(0, config.trainer.lr);
}

void SampleStep::micro_step() {
  const ForwardScope scope({.training = true,
                            .seed = config_.trainer.seed,
                            .step = state_.step_pointer(),
                            .micro_step = 0,
                            .telemetry = nullptr});
  const Tape::Recording recording(tape_);
  tape_.backward(model_->loss(ids_, ids_));
}

void SampleStep::update() {
  clip_gradients(parameters(*model_), config_.trainer.clip, state_);
  optimizer_->step(state_);
}

}  // namespace nibble::train
