#include "apps/cli/dry_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <optional>

#include "apps/cli/memory_fit.h"
#include "apps/cli/memory_plan.h"
#include "apps/run/progress.h"
#include "apps/train/sample_step.h"
#include "data/dataset.h"
#include "models/gpt2.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;

struct Timing {
  double micro_step = 0, update = 0;  // seconds
};
Timing time_step(const train::TrainConfig& config, std::int64_t vocab, Device device) {
  using Clock = std::chrono::steady_clock;
  train::SampleStep bench(config, vocab, device);
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

int dry_run(const train::TrainOptions& options, bool timed) {
  const train::TrainConfig& config = options.config;
  const std::int64_t vocab = read_dataset(config.data.path).vocab_size;
  const MemoryPlan plan = plan_memory(config, vocab, options.device);
  fmt::print("model: {:.2f} M parameters; recipe {}; batch {}, {} of them a step\n",
             static_cast<double>(plan.weights) / 1e6, config.recipe, config.trainer.batch,
             config.trainer.accumulation);
  const std::optional<Room> room = room_on(options.device);
  std::string parts;
  for (const auto& [name, bytes] : plan.categories)
    if (bytes > 0)
      parts += fmt::format("{}{} {}", parts.empty() ? "" : " + ", name, size_text(bytes));
  const std::int64_t needed = process_memory(plan, options.device);
  const std::string process =
      needed == plan.peak ? "" : fmt::format("; a process of {}", size_text(needed));
  fmt::print("memory: {} = {}{}; {} available\n", size_text(plan.peak), parts, process,
             room ? size_text(room->bytes()) : "unknown");
  const std::int64_t files = config.trainer.keep ? config.trainer.keep + 1 : 0;
  const auto space =
      static_cast<std::int64_t>(fs::space(nearest_existing(options.output)).available);
  if (files > 0)
    fmt::print("disk: {} a checkpoint; {} kept and one in writing are {}; {} free\n",
               size_text(plan.checkpoint), files - 1, size_text(files * plan.checkpoint),
               size_text(space));
  std::fflush(stdout);
  NIBBLE_CHECK(!room || needed <= room->bytes(), "dry-run",
               "memory is short: got {}, needs {}; what would fit: {}", size_text(room->bytes()),
               size_text(needed), what_would_fit(config, vocab, options.device, room->bytes()));
  NIBBLE_CHECK(
      files * plan.checkpoint <= space, "dry-run",
      "the disk is too full: got {}, needs {}; a smaller trainer.keep or another --output helps",
      size_text(space), size_text(files * plan.checkpoint));
  if (timed) {
    const Timing timing = time_step(config, vocab, options.device);
    const std::int64_t length =
        config.data.sequence ? config.data.sequence : train::gpt2_of(config.model, vocab).context;
    print_time(config, timing, config.trainer.batch * length);
  }
  return 0;
}

}  // namespace nibble::cli
