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
#include "quant/recipe.h"
#include "tensor/held_memory.h"
#include "tensor/storage.h"

namespace nibble::cli {
namespace {

using train::TrainConfig;

// A change of a configuration and how it is asked for; none where it would change nothing.
struct Change {
  TrainConfig config;
  std::vector<std::pair<std::string, std::string>> settings = {};

  // One that is said twice would be read as a mistake: the last one counts.
  void tell(const std::string& key, std::string value) {
    std::erase_if(settings, [&](const auto& s) { return s.first == key; });
    settings.emplace_back(key, std::move(value));
  }
  // As words of a shell, which would take patterns and pipes for its own.
  std::string text() const {
    std::string words;
    for (const auto& [key, value] : settings) {
      const char* quote = value.find_first_of("*?|") == std::string::npos ? "" : "'";
      words += fmt::format(" --set {0}{1}={2}{0}", quote, key, value);
    }
    return words;
  }
};

// One level further, up to the last.
std::optional<Change> recomputing(const Change& from, const char* level) {
  if (train::recompute_of(from.config.model.recompute) >= train::recompute_of(level))
    return std::nullopt;
  Change to = from;
  to.config.model.recompute = level;
  to.tell("model.recompute", level);
  if (to.config.model.recompute_blocks) {
    to.config.model.recompute_blocks.reset();
    to.tell("model.recompute_blocks", "null");
  }
  return to;
}

std::optional<Change> checkpointed(const Change& from) {
  if (from.config.model.checkpoint_blocks) return std::nullopt;
  Change to = from;
  to.config.model.checkpoint_blocks = true;
  to.tell("model.checkpoint_blocks", "true");
  return to;
}

std::optional<Change> in_parts(const Change& from, std::int64_t parts) {
  const train::TrainerConfig& t = from.config.trainer;
  if (parts == 1 || t.batch % parts != 0 || t.update == train::UpdateTime::InBackward)
    return std::nullopt;
  Change to = from;
  to.config.trainer.batch /= parts;
  to.config.trainer.accumulation *= parts;
  to.tell("trainer.batch", std::to_string(to.config.trainer.batch));
  to.tell("trainer.accumulation", std::to_string(to.config.trainer.accumulation));
  return to;
}

// Without room for the gradients of all parameters; in place of the clip by their global norm.
std::optional<Change> in_backward(const Change& from) {
  const train::TrainerConfig& t = from.config.trainer;
  if (t.update == train::UpdateTime::InBackward || t.accumulation > 1) return std::nullopt;
  Change to = from;
  to.config.trainer.update = train::UpdateTime::InBackward;
  to.config.trainer.clip = 0;
  to.tell("trainer.update", "in_backward");
  to.tell("trainer.clip", "0");
  return to;
}

std::optional<Change> without_kept_encodings(const Change& from) {
  if (!from.config.trainer.keep_encodings) return std::nullopt;
  Change to = from;
  to.config.trainer.keep_encodings = false;
  to.tell("trainer.keep_encodings", "false");
  return to;
}

std::optional<Change> with_8bit_moments(const Change& from) {
  if (from.config.optimizer.type != "adamw") return std::nullopt;
  const MomentRecipe kept = recipes::parse(from.config.recipe).moments;
  if (!kept.simulated && kept.m != "" && kept.v != "") return std::nullopt;
  Change to = from;
  for (const auto& [slot, codec] :
       {std::pair{"m", "dyn8:group256"}, {"v", "dynu8:group256:sr:recip"}}) {
    if (to.config.optimizer.parameters.value(slot, "") != "") return std::nullopt;
    to.config.optimizer.parameters[slot] = codec;
    to.tell(fmt::format("optimizer.{}", slot), codec);
  }
  return to;
}

std::optional<Change> with_recipe(const Change& from, const std::string& recipe) {
  Change to = from;
  to.config.recipe = recipe;
  to.tell("recipe", recipe);
  return to;
}

std::optional<Change> by_recipe(const Change& from) {
  if (from.config.recipe != "none") return with_8bit_moments(from);
  return with_recipe(from, "int8");  // codes are saved, not activations, and moments are codes
}

// Without a master copy; rounded stochastically. Of recipes that change numbers anyway.
std::optional<Change> with_weights(const Change& from, WeightStorage kept) {
  Recipe recipe = recipes::parse(from.config.recipe);
  if (from.config.recipe == "none" || recipe.weights >= kept) return std::nullopt;
  recipe.weights = kept;
  return with_recipe(from, recipes::to_string(recipe));
}
constexpr WeightStorage kSmaller[] = {WeightStorage::BF16, WeightStorage::Int8};

// What plans are compared with.
struct Limit {
  std::int64_t vocab;
  Device device;
  std::int64_t bytes;  // of a process
  std::int64_t needs(const TrainConfig& config) const {
    return process_memory(plan_memory(config, vocab, device), device);
  }
};

// "3.2 GiB with --set …" when it stays within the limit.
std::optional<std::string> fitting(const std::optional<Change>& change, const Limit& limit) {
  if (!change) return std::nullopt;
  const std::int64_t needed = limit.needs(change->config);
  if (needed > limit.bytes) return std::nullopt;
  return fmt::format("{} with{}", size_text(needed), change->text());
}

// The fewest parts that fit, of as many as would still be a sensible step.
std::optional<std::string> fitting_parts(const Change& from, const Limit& limit) {
  constexpr std::int64_t kMost = 512;
  for (std::int64_t parts = 2; parts <= std::min(from.config.trainer.batch, kMost); ++parts)
    if (auto text = fitting(in_parts(from, parts), limit)) return text;
  return std::nullopt;
}

// The level of recomputation that costs the least time.
std::optional<std::string> recomputed(const Change& from, const Limit& limit) {
  if (from.config.model.checkpoint_blocks) return std::nullopt;
  for (const char* level : {"inputs", "mlp", "products", "sums"})
    if (auto text = fitting(recomputing(from, level), limit)) return text;
  return fitting(checkpointed(from), limit);
}

std::optional<std::string> with_smaller_weights(const Change& from, const Limit& limit) {
  for (const WeightStorage kept : kSmaller)
    if (auto text = fitting(with_weights(from, kept), limit)) return text;
  return std::nullopt;
}

std::int64_t largest_batch(TrainConfig config, const Limit& limit) {
  const auto fits = [&](std::int64_t batch) {
    config.trainer.batch = batch;
    return limit.needs(config) <= limit.bytes;
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

std::string ways_on(const train::TrainOptions& options, const Limit& limit) {
  std::string text =
      "what would fit: " + what_would_fit(options.config, limit.vocab, limit.device, limit.bytes);
  const auto kept = train::list_checkpoints(options.output / "checkpoints");
  if (!kept.empty())
    text += fmt::format("; --resume goes on from step {}, with recomputation or more memory",
                        kept.back().step);
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

std::string what_would_fit(const TrainConfig& config, std::int64_t vocab, Device device,
                           std::int64_t bytes) {
  const Change now{config};
  const Limit limit{vocab, device, bytes};
  std::string text;
  for (const auto& found :
       {fitting(without_kept_encodings(now), limit), fitting_parts(now, limit),
        recomputed(now, limit), fitting(by_recipe(now), limit), with_smaller_weights(now, limit)})
    if (found) text += (text.empty() ? "" : "; or ") + *found;
  if (!text.empty()) return text;
  // Together, the ones that change no numbers first.
  const Change made = without_kept_encodings(now).value_or(now);
  const Change blocks = checkpointed(made).value_or(made);
  if (const auto found = fitting_parts(blocks, limit)) return *found;
  std::vector<Change> all{by_recipe(blocks).value_or(blocks)};
  for (const WeightStorage kept : kSmaller)
    if (auto change = with_weights(all.front(), kept)) all.push_back(std::move(*change));
  for (const Change& change : all) {
    if (const auto found = fitting(change, limit)) return *found;
    if (const auto found = fitting_parts(change, limit)) return *found;
  }
  for (const Change& change : all)
    if (const auto found = fitting(in_backward(change), limit)) return *found;
  return "no smaller batch fits; a smaller model might";
}

std::vector<LargestBatch> largest_batches(const TrainConfig& config, std::int64_t vocab,
                                          Device device, std::int64_t bytes) {
  const Change now{config};
  const Limit limit{vocab, device, bytes};
  std::vector<LargestBatch> result{{"as configured", largest_batch(config, limit)}};
  for (const auto& change :
       {recomputing(now, "inputs"), recomputing(now, "mlp"), recomputing(now, "products"),
        recomputing(now, "sums"), checkpointed(now), with_8bit_moments(now),
        config.recipe == "none" ? by_recipe(now) : std::nullopt}) {
    if (!change) continue;
    const std::int64_t batch = largest_batch(change->config, limit);
    if (batch > result.front().batch) result.push_back({"with" + change->text(), batch});
  }
  return result;
}

std::optional<Room> room_on(Device device) {
  const auto memory = device_memory(device);  // a GPU's context is there from here on
  if (!memory) return std::nullopt;
  const std::int64_t own =
      device.is_cuda() ? kGpuContext + held_memory(device).now : memory_stats(device).current;
  return Room{memory->free, own, memory->total};
}

void check_plan(const train::TrainOptions& options) {
  if (const auto room = room_on(options.device)) check_plan(options, *room);
}

void check_plan(const train::TrainOptions& options, const Room& room) {
  const Device device = options.device;
  const std::int64_t vocab = read_dataset(options.config.data.path).vocab_size;
  const std::int64_t needed = process_memory(plan_memory(options.config, vocab, device), device);
  if (needed <= room.bytes()) return;
  const std::string others =
      needed <= room.total
          ? fmt::format(" (others use {})",
                        size_text(std::max<std::int64_t>(room.total - room.bytes(), 0)))
          : "";
  fail("allocate", "memory is short: got {} free of the {} of {}{}, the plan needs {}; {}",
       size_text(room.free), size_text(room.total), device, others, size_text(needed),
       ways_on(options, {vocab, device, room.bytes()}));
}

void fail_with_what_would_fit(const OutOfMemory& error, const train::TrainOptions& options) {
  const Device device = options.device;
  release_cached_memory(device);
  const auto room = room_on(device);
  const std::int64_t vocab = read_dataset(options.config.data.path).vocab_size;
  // Where the plan would have called this step possible, at least what was asked for must go.
  const std::int64_t needed = process_memory(plan_memory(options.config, vocab, device), device);
  std::int64_t limit = room ? room->bytes() : error.in_use();
  if (needed <= limit) limit = needed - error.shortage().asked;
  fail("allocate", "{}; {}", error.cause(), ways_on(options, {vocab, device, limit}));
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
