#include "apps/cli/memory_plan.h"

#include <map>

#include "apps/train/sample_step.h"
#include "apps/train/weights.h"

namespace nibble::cli {
namespace {

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

MemoryPlan plan_memory(const train::TrainConfig& config, std::int64_t dataset_vocab) {
  NIBBLE_CHECK(memory_stats(kMeta).current == 0, "dry-run", "meta tensors are alive");
  train::SampleStep bench(config, dataset_vocab, kMeta);
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
  plan.checkpoint = bytes_of(train::weight_tensors(bench.model())) +
                    bytes_of(bench.optimizer().state_tensors()) +
                    bytes_of(bench.scales().tensors());
  return plan;
}

}  // namespace nibble::cli
