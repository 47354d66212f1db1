#include "apps/cli/dry_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <optional>

#include "apps/run/progress.h"
#include "apps/train/build.h"
#include "apps/train/weights.h"
#include "autograd/context.h"
#include "data/dataset.h"
#include "tensor/rng.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;

// One model in training, on Meta or for real; the tokens are of no consequence.
class Bench {
 public:
  Bench(const train::TrainConfig& config, std::int64_t dataset_vocab, Device device)
      : config_(config),
        model_(train::build_model(config, dataset_vocab, device)),
        parameter_bytes_(memory_stats(device).current),
        optimizer_(train::build_optimizer(config, *model_)),
        state_(device) {
    const std::int64_t batch = config.trainer.batch;
    const std::int64_t length = config.data.sequence ? config.data.sequence : model_->context();
    ids_ = Tensor::uniform({batch, length}, 0, static_cast<double>(model_->vocab()), RngKey{},
                           DType::I32, device);
    state_.begin(0, config.trainer.lr);
  }

  void micro_step() {
    const ForwardScope scope({.training = true,
                              .seed = config_.trainer.seed,
                              .step = state_.step_pointer(),
                              .micro_step = 0,
                              .telemetry = nullptr});
    const Tape::Recording recording(tape_);
    tape_.backward(model_->loss(ids_, ids_));
  }
  void update() {
    clip_gradients(parameters(*model_), config_.trainer.clip, state_);
    optimizer_->step(state_);
  }

  LanguageModel& model() { return *model_; }
  const Optimizer& optimizer() const { return *optimizer_; }
  std::int64_t parameter_bytes() const { return parameter_bytes_; }
  std::int64_t tokens() const { return ids_.numel(); }

 private:
  const train::TrainConfig& config_;
  std::unique_ptr<LanguageModel> model_;
  std::int64_t parameter_bytes_;
  std::unique_ptr<Optimizer> optimizer_;
  StepState state_;
  Tape tape_;
  Tensor ids_;
};

std::int64_t bytes_of(const NamedTensors& tensors) {
  std::int64_t total = 0;
  for (const auto& [name, tensor] : tensors) total += tensor.bytes();
  return total;
}

std::string mib(std::int64_t bytes) {
  return run::format_bytes(static_cast<std::uint64_t>(std::max<std::int64_t>(bytes, 0)));
}

// The least change that brings the peak under `limit`, with the same arithmetic: checkpointed
// blocks, then smaller micro-batches, then both.
std::string what_would_fit(const train::TrainConfig& config, std::int64_t vocab,
                           std::int64_t limit) {
  for (std::int64_t parts = 1; config.trainer.batch % parts == 0; parts *= 2) {
    for (const bool checkpoint : {false, true}) {
      train::TrainConfig c = config;
      c.model.checkpoint_blocks |= checkpoint;
      c.trainer.batch /= parts;
      c.trainer.accumulation *= parts;
      const std::int64_t peak = plan_memory(c, vocab).peak;
      if (peak > limit) continue;
      std::string change;
      if (parts > 1)
        change += fmt::format(" --set trainer.batch={} --set trainer.accumulation={}",
                              c.trainer.batch, c.trainer.accumulation);
      if (checkpoint) change += " --set model.checkpoint_blocks=true";
      return fmt::format("{} with{}", mib(peak), change);
    }
  }
  return "no smaller batch fits; a smaller model might";
}

struct Timing {
  double micro_step = 0, update = 0;  // seconds
};
Timing time_step(const train::TrainConfig& config, std::int64_t vocab, Device device) {
  using Clock = std::chrono::steady_clock;
  Bench bench(config, vocab, device);
  Timing timing;
  for (int i = 0; i < 2; ++i) {  // the first one allocates
    const auto begin = Clock::now();
    bench.micro_step();
    synchronize(device);
    const auto middle = Clock::now();
    bench.update();
    synchronize(device);
    timing = {std::chrono::duration<double>(middle - begin).count(),
              std::chrono::duration<double>(Clock::now() - middle).count()};
  }
  return timing;
}

void print_time(const train::TrainConfig& config, const Timing& timing, std::int64_t tokens) {
  const auto parts = static_cast<double>(config.trainer.accumulation);
  const double step = parts * timing.micro_step + timing.update;
  fmt::print(
      "time: {:.3f} s a step, {:.0f} tokens/s; {} steps take {} (evaluations and checkpoints "
      "come on top)\n",
      step, parts * static_cast<double>(tokens) / step, config.trainer.steps,
      run::format_duration(step * static_cast<double>(config.trainer.steps)));
}

fs::path nearest_existing(fs::path path) {
  path = fs::absolute(path);
  while (!fs::exists(path) && path.has_parent_path() && path != path.parent_path())
    path = path.parent_path();
  return path;
}

}  // namespace

MemoryPlan plan_memory(const train::TrainConfig& config, std::int64_t dataset_vocab) {
  NIBBLE_CHECK(memory_stats(kMeta).current == 0, "dry-run", "meta tensors are alive");
  Bench bench(config, dataset_vocab, kMeta);
  MemoryPlan plan;
  plan.parameters = bench.parameter_bytes();
  for (const Parameter* p : parameters(bench.model())) plan.weights += p->numel();
  plan.optimizer = bench.optimizer().state_bytes();
  reset_peak_memory(kMeta);
  // Twice: only the second step finds the gradients' buffers already there.
  for (int i = 0; i < 2; ++i) {
    bench.micro_step();
    bench.update();
  }
  for (const Parameter* p : parameters(bench.model()))
    if (p->grad().defined()) plan.gradients += p->grad().bytes();
  plan.peak = memory_stats(kMeta).peak;
  plan.activations = plan.peak - plan.parameters - plan.optimizer - plan.gradients;
  plan.checkpoint =
      bytes_of(train::weight_tensors(bench.model())) + bytes_of(bench.optimizer().state_tensors());
  return plan;
}

int dry_run(const train::TrainOptions& options, bool timed) {
  const train::TrainConfig& config = options.config;
  const std::int64_t vocab = read_dataset(config.data.path).vocab_size;
  const MemoryPlan plan = plan_memory(config, vocab);
  fmt::print("model: {:.2f} M parameters; recipe {}; batch {}, {} of them a step\n",
             static_cast<double>(plan.weights) / 1e6, config.recipe, config.trainer.batch,
             config.trainer.accumulation);
  std::optional<std::int64_t> available;
  if (const auto memory = device_memory(options.device)) available = memory->free;
  fmt::print(
      "memory: {} = parameters {} + gradients {} + optimizer {} + activations and workspaces "
      "{}; {} available\n",
      mib(plan.peak), mib(plan.parameters), mib(plan.gradients), mib(plan.optimizer),
      mib(plan.activations), available ? mib(*available) : "unknown");
  const auto files = static_cast<std::int64_t>(config.trainer.keep) + 1;
  const auto space =
      static_cast<std::int64_t>(fs::space(nearest_existing(options.output)).available);
  fmt::print("disk: {} a checkpoint; {} kept and one in writing are {}; {} free\n",
             mib(plan.checkpoint), files - 1, mib(files * plan.checkpoint), mib(space));
  std::fflush(stdout);
  NIBBLE_CHECK(!available || plan.peak <= *available, "dry-run",
               "memory is short: got {}, needs {}; what would fit: {}", mib(*available),
               mib(plan.peak), what_would_fit(config, vocab, *available));
  NIBBLE_CHECK(
      files * plan.checkpoint <= space, "dry-run",
      "the disk is too full: got {}, needs {}; a smaller trainer.keep or another --output helps",
      mib(space), mib(files * plan.checkpoint));
  if (timed) {
    const Timing timing = time_step(config, vocab, options.device);
    const std::int64_t length =
        config.data.sequence ? config.data.sequence : train::gpt2_of(config.model, vocab).context;
    print_time(config, timing, config.trainer.batch * length);
  }
  return 0;
}

}  // namespace nibble::cli
