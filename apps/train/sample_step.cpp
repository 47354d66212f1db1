#include "apps/train/sample_step.h"

#include "autograd/context.h"
#include "tensor/rng.h"

namespace nibble::train {
namespace {

std::unique_ptr<LanguageModel> counted_model(const TrainConfig& config, std::int64_t vocab,
                                             Device device) {
  const MemoryScope scope("parameters");
  return build_model(config, vocab, device);
}

}  // namespace

SampleStep::SampleStep(const TrainConfig& config, std::int64_t dataset_vocab, Device device,
                       Device planned)
    : config_(config),
      model_(counted_model(config, dataset_vocab, device)),
      optimizer_(build_optimizer(config, *model_)),
      state_(device),
      scales_(device),
      updates_(config.trainer, *optimizer_, state_, tape_) {
  if (planned.is_cuda()) optimizer_->plan_for_gpu();
  const MemoryScope scope("batch");
  const std::int64_t length = sequence_of(config, *model_);
  const auto tokens = [&] {
    return Tensor::uniform({config.trainer.batch, length}, 0, static_cast<double>(model_->vocab()),
                           RngKey{}, DType::I32, device);
  };
  for (std::int64_t i = 0; i < config.trainer.accumulation; ++i)
    batches_.push_back({tokens(), tokens()});
  state_.begin(0, config.trainer.lr);
  if (!device.is_cpu()) release_cached_memory(device);  // where a run does
  if (!updates_.in_backward()) allocate_gradients(parameters(*model_));
}

void SampleStep::micro_step() {
  const ForwardScope forward({.training = true,
                              .seed = config_.trainer.seed,
                              .step = state_.step_pointer(),
                              .micro_step = 0,
                              .telemetry = nullptr,
                              .scales = &scales_});
  const MemoryScope scope("activations");
  const BatchStage::Pair& batch = batches_.front();
  const Tape::Recording recording(tape_);
  const Var loss = model_->loss(batch.ids, batch.targets);
  accumulate_loss(state_, loss.tensor(), 1);
  tape_.backward(loss);
}

void SampleStep::update() {
  updates_.finish();
  scales_.advance(state_);
}

}  // namespace nibble::train
