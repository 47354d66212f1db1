#include "apps/cli/memory_plan.h"

#include <map>

#include "apps/train/build.h"
#include "apps/train/weights.h"
#include "autograd/context.h"
#include "tensor/rng.h"

namespace nibble::cli {
namespace {

std::unique_ptr<LanguageModel> counted_model(const train::TrainConfig& config, std::int64_t vocab,
                                             Device device) {
  const MemoryScope scope("parameters");
  return train::build_model(config, vocab, device);
}

std::int64_t bytes_of(const NamedTensors& tensors) {
  std::int64_t total = 0;
  for (const auto& [name, tensor] : tensors) total += tensor.bytes();
  return total;
}

std::vector<std::pair<std::string, std::int64_t>> categories_at_peak() {
  std::map<std::string, MemoryStats> scopes = memory_by_scope(kMeta);
  std::vector<std::pair<std::string, std::int64_t>> out;
  for (const MemoryCategory& c : kMemoryCategories) {
    out.emplace_back(c.name, scopes[c.name].at_peak);
    scopes.erase(c.name);
  }
  std::int64_t other = 0;
  for (const auto& [name, stats] : scopes) other += stats.at_peak;
  if (other > 0) out.emplace_back("other", other);
  return out;
}

}  // namespace

std::int64_t MemoryPlan::of(std::string_view category) const {
  for (const auto& [name, bytes] : categories)
    if (name == category) return bytes;
  return 0;
}

StepBench::StepBench(const train::TrainConfig& config, std::int64_t dataset_vocab, Device device)
    : config_(config),
      model_(counted_model(config, dataset_vocab, device)),
      optimizer_(train::build_optimizer(config, *model_)),
      state_(device) {
  const MemoryScope scope("batch");
  const std::int64_t length = config.data.sequence ? config.data.sequence : model_->context();
  for (Tensor* tokens : {&ids_, &targets_})
    *tokens = Tensor::uniform({config.trainer.batch, length}, 0,
                              static_cast<double>(model_->vocab()), RngKey{}, DType::I32, device);
  state_.begin(0, config.trainer.lr);
}

void StepBench::micro_step() {
  const ForwardScope forward({.training = true,
                              .seed = config_.trainer.seed,
                              .step = state_.step_pointer(),
                              .micro_step = 0,
                              .telemetry = nullptr});
  const MemoryScope scope("activations");
  const Tape::Recording recording(tape_);
  tape_.backward(model_->loss(ids_, targets_));
}

void StepBench::update() {
  clip_gradients(parameters(*model_), config_.trainer.clip, state_);
  optimizer_->step(state_);
}

MemoryPlan plan_memory(const train::TrainConfig& config, std::int64_t dataset_vocab) {
  NIBBLE_CHECK(memory_stats(kMeta).current == 0, "dry-run", "meta tensors are alive");
  StepBench bench(config, dataset_vocab, kMeta);
  MemoryPlan plan;
  for (const Parameter* p : parameters(bench.model())) plan.weights += p->numel();
  reset_peak_memory(kMeta);
  // Twice: only the second step finds the gradients' buffers already there.
  for (int i = 0; i < 2; ++i) {
    bench.micro_step();
    bench.update();
  }
  plan.peak = memory_stats(kMeta).peak;
  plan.categories = categories_at_peak();
  plan.checkpoint =
      bytes_of(train::weight_tensors(bench.model())) + bytes_of(bench.optimizer().state_tensors());
  return plan;
}

}  // namespace nibble::cli
