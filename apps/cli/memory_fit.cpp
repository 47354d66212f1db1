#include "apps/cli/memory_fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "apps/cli/memory_plan.h"
#include "apps/train/checkpoints.h"
#include "data/dataset.h"
#include "tensor/storage.h"

namespace nibble::cli {
namespace {

using train::TrainConfig;

// A change of a configuration and how it is asked for; none where it would change nothing.
struct Change {
  TrainConfig config;
  std::string settings;
};

// One level further, up to the last.
std::optional<Change> recomputing(const Change& from, const char* level) {
  if (train::recompute_of(from.config.model.recompute) >= train::recompute_of(level))
    return std::nullopt;
  Change to = from;
  to.config.model.recompute = level;
  to.settings += fmt::format(" --set model.recompute={}", level);
  if (to.config.model.recompute_blocks) {
    to.config.model.recompute_blocks.reset();
    to.settings += " --set model.recompute_blocks=null";
  }
  return to;
}

std::optional<Change> checkpointed(const Change& from) {
  if (from.config.model.checkpoint_blocks) return std::nullopt;
  Change to = from;
  to.config.model.checkpoint_blocks = true;
  to.settings += " --set model.checkpoint_blocks=true";
  return to;
}

std::optional<Change> in_parts(const Change& from, std::int64_t parts) {
  const train::TrainerConfig& t = from.config.trainer;
  if (parts == 1 || t.batch % parts != 0 || t.update == train::UpdateTime::InBackward)
    return std::nullopt;
  Change to = from;
  to.config.trainer.batch /= parts;
  to.config.trainer.accumulation *= parts;
  to.settings += fmt::format(" --set trainer.batch={} --set trainer.accumulation={}",
                             to.config.trainer.batch, to.config.trainer.accumulation);
  return to;
}

// Without room for the gradients of all parameters; in place of the clip by their global norm.
std::optional<Change> in_backward(const Change& from) {
  const train::TrainerConfig& t = from.config.trainer;
  if (t.update == train::UpdateTime::InBackward || t.accumulation > 1) return std::nullopt;
  Change to = from;
  to.config.trainer.update = train::UpdateTime::InBackward;
  to.config.trainer.clip = 0;
  to.settings += " --set trainer.update=in_backward --set trainer.clip=0";
  return to;
}

std::optional<Change> with_8bit_moments(const Change& from) {
  if (from.config.optimizer.type != "adamw") return std::nullopt;
  Change to = from;
  for (const auto& [slot, codec] : {std::pair{"m", "dyn8:group256"}, {"v", "dynu8:group256"}}) {
    if (to.config.optimizer.parameters.value(slot, "") != "") return std::nullopt;
    to.config.optimizer.parameters[slot] = codec;
    to.settings += fmt::format(" --set optimizer.{}={}", slot, codec);
  }
  return to;
}

std::optional<Change> by_recipe(const Change& from) {
  if (from.config.recipe != "none") return with_8bit_moments(from);
  Change to = from;
  to.config.recipe = "int8";  // codes are saved in place of activations, and moments are codes
  to.settings += " --set recipe=int8";
  return to;
}

// "3.2 GiB with --set …" when its peak is within the limit.
std::optional<std::string> fitting(const std::optional<Change>& change, std::int64_t vocab,
                                   std::int64_t limit) {
  if (!change) return std::nullopt;
  const std::int64_t peak = plan_memory(change->config, vocab).peak;
  if (peak > limit) return std::nullopt;
  return fmt::format("{} with{}", size_text(peak), change->settings);
}

// The fewest parts that fit, of as many as would still be a sensible step.
std::optional<std::string> fitting_parts(const Change& from, std::int64_t vocab,
                                         std::int64_t limit) {
  constexpr std::int64_t kMost = 512;
  for (std::int64_t parts = 2; parts <= std::min(from.config.trainer.batch, kMost); ++parts)
    if (auto text = fitting(in_parts(from, parts), vocab, limit)) return text;
  return std::nullopt;
}

// The level of recomputation that costs the least time.
std::optional<std::string> recomputed(const Change& from, std::int64_t vocab, std::int64_t limit) {
  if (from.config.model.checkpoint_blocks) return std::nullopt;
  for (const char* level : {"inputs", "mlp", "products", "sums"})
    if (auto text = fitting(recomputing(from, level), vocab, limit)) return text;
  return fitting(checkpointed(from), vocab, limit);
}

std::int64_t largest_batch(TrainConfig config, std::int64_t vocab, std::int64_t limit) {
  const auto fits = [&](std::int64_t batch) {
    config.trainer.batch = batch;
    return plan_memory(config, vocab).peak <= limit;
  };
  constexpr std::int64_t kMost = 1 << 14;
  std::int64_t good = 0, bad = 1;
  while (bad <= kMost && fits(bad)) good = std::exchange(bad, 2 * bad);
  while (bad <= kMost && bad - good > 1) {
    const std::int64_t middle = (good + bad) / 2;
    (fits(middle) ? good : bad) = middle;
  }
  return good;
}

// All the memory of a device that is there.
std::optional<std::int64_t> total_memory(Device device) {
  try {
    if (const auto memory = device_memory(device)) return memory->total;
  } catch (const Error&) {  // absent, or of a kind that cannot serve
  }
  return std::nullopt;
}

std::string ways_on(const train::TrainOptions& options, std::int64_t vocab, std::int64_t limit) {
  std::string text = "what would fit: " + what_would_fit(options.config, vocab, limit);
  const auto kept = train::list_checkpoints(options.output / "checkpoints");
  if (!kept.empty()) text += fmt::format("; --resume goes on from step {}", kept.back().step);
  return text;
}

}  // namespace

MemoryBudget memory_budget(Device device, std::int64_t given) {
  if (given > 0) return {given, "given", size_text(given)};
  if (const auto total = total_memory(device))
    return {*total, "device", fmt::format("{}, all that {} has", size_text(*total), device)};
  return {kAssumedGpuMemory, "assumed",
          fmt::format("{} (assumed: an H200's 141 GB; --memory SIZE names another)",
                      size_text(kAssumedGpuMemory))};
}

std::string what_would_fit(const TrainConfig& config, std::int64_t vocab, std::int64_t limit) {
  const Change now{config, ""};
  std::string text;
  for (const auto& found : {fitting_parts(now, vocab, limit), recomputed(now, vocab, limit),
                            fitting(by_recipe(now), vocab, limit)})
    if (found) text += (text.empty() ? "" : "; or ") + *found;
  if (!text.empty()) return text;
  // Together, the ones that change no numbers first.
  const Change blocks = checkpointed(now).value_or(now);
  if (const auto found = fitting_parts(blocks, vocab, limit)) return *found;
  const Change all = by_recipe(blocks).value_or(blocks);
  if (const auto found = fitting(all, vocab, limit)) return *found;
  if (const auto found = fitting_parts(all, vocab, limit)) return *found;
  if (const auto found = fitting(in_backward(all), vocab, limit)) return *found;
  return "no smaller batch fits; a smaller model might";
}

std::vector<LargestBatch> largest_batches(const TrainConfig& config, std::int64_t vocab,
                                          std::int64_t limit) {
  const Change now{config, ""};
  std::vector<LargestBatch> result{{"as configured", largest_batch(config, vocab, limit)}};
  for (const auto& change :
       {recomputing(now, "inputs"), recomputing(now, "mlp"), recomputing(now, "products"),
        recomputing(now, "sums"), checkpointed(now), with_8bit_moments(now),
        config.recipe == "none" ? by_recipe(now) : std::nullopt}) {
    if (!change) continue;
    const std::int64_t batch = largest_batch(change->config, vocab, limit);
    if (batch > result.front().batch) result.push_back({"with" + change->settings, batch});
  }
  return result;
}

void check_plan(const train::TrainOptions& options) {
  const Device device = options.device;
  const auto memory = device_memory(device);
  const std::int64_t vocab = read_dataset(options.config.data.path).vocab_size;
  const MemoryPlan plan = plan_memory(options.config, vocab);
  const std::int64_t needed = process_memory(plan, device);
  if (!memory || needed <= memory->total) return;
  fail("allocate", "memory is short: got the {} of {}, the plan needs {}; {}",
       size_text(memory->total), device, size_text(needed),
       ways_on(options, vocab, tensors_within(memory->total, plan, device)));
}

void fail_with_what_would_fit(const OutOfMemory& error, const train::TrainOptions& options) {
  const Device device = options.device;
  release_cached_memory(device);
  const auto memory = device_memory(device);
  const std::int64_t vocab = read_dataset(options.config.data.path).vocab_size;
  // Where the plan would have called this step possible, at least what was asked for must go.
  const MemoryPlan plan = plan_memory(options.config, vocab);
  std::int64_t limit = memory ? tensors_within(memory->free, plan, device) : error.in_use();
  if (plan.peak <= limit) limit = plan.peak - error.shortage().asked;
  fail("allocate", "{}; {}", error.cause(), ways_on(options, vocab, limit));
}

std::int64_t parse_bytes(std::string_view what, std::string_view text) {
  static const std::map<std::string_view, double> kUnits{
      {"", 1},         {"B", 1},    {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30},
      {"TiB", 0x1p40}, {"KB", 1e3}, {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12}};
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  std::string_view unit(rest, static_cast<std::size_t>(end - rest));
  while (unit.starts_with(' ')) unit.remove_prefix(1);
  const auto known = kUnits.find(unit);
  const double bytes = known == kUnits.end() ? 0 : number * known->second;
  NIBBLE_CHECK(error == std::errc{} && std::isfinite(bytes) && bytes >= 1 && bytes < 0x1p62, what,
               "not a size: got '{}' expected a number and a unit, e.g. 24GiB", text);
  return static_cast<std::int64_t>(bytes);
}

}  // namespace nibble::cli
