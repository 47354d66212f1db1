#include "apps/cli/memory_plan.h"

#include <algorithm>
#include <map>

#include "apps/train/sample_step.h"
#include "apps/train/weights.h"
#include "autograd/context.h"
#include "nn/layers.h"
#include "tensor/held_memory.h"

namespace nibble::cli {
namespace {

std::int64_t bytes_of(const NamedTensors& tensors) {
  std::int64_t total = 0;
  for (const auto& [name, tensor] : tensors) total += tensor.bytes();
  return total;
}

void tell_peak(MemoryPlan& plan) {
  std::map<std::string, std::int64_t> sums;
  for (const auto& [name, stats] : memory_by_scope(kMeta)) {
    const auto colon = name.find(':');
    sums[name.substr(0, colon)] += stats.at_peak;
    if (colon != std::string::npos && stats.at_peak > 0)
      plan.modules.emplace_back(name, stats.at_peak);
  }
  for (const MemoryCategory& c : kMemoryCategories) {
    plan.categories.emplace_back(c.name, sums[c.name]);
    sums.erase(c.name);
  }
  std::int64_t other = 0;
  for (const auto& [name, bytes] : sums) other += bytes;
  if (other > 0) plan.categories.emplace_back("other", other);
  std::ranges::sort(plan.modules, std::greater{}, [](const auto& part) { return part.second; });
}

// Our own kernels multiply integers unless a tuned plan says otherwise, which is not counted; all
// else is the library's.
bool is_float_product(const GemmRecipe& gemm) {
  const auto is_integer = [](const Encoding& e) { return e.quant && e.quant->format.is_integer(); };
  return gemm.mode != Mode::Real || !(is_integer(gemm.lhs) || is_integer(gemm.rhs));
}
bool has_float_products(LanguageModel& model, const Recipe& recipe) {
  const auto some = [](const LinearRecipe& r) {
    return is_float_product(r.fprop) || is_float_product(r.dgrad) || is_float_product(r.wgrad);
  };
  bool found = some(recipe.at("lm_head"));
  for_each_module(model, [&](Module& m) {
    if (const auto* linear = dynamic_cast<const Linear*>(&m)) found |= some(linear->recipe);
  });
  return found;
}

}  // namespace

std::int64_t MemoryPlan::of(std::string_view category) const {
  for (const auto& [name, bytes] : categories)
    if (name == category) return bytes;
  return 0;
}

std::int64_t process_memory(const MemoryPlan& plan, Device device) {
  if (!device.is_cuda()) return plan.peak;
  return kGpuContext + (plan.float_products ? kGpuLibrary : 0) +
         std::max(plan.held, plan.peak);  // a mistaken size has no place
}

MemoryPlan plan_memory(const train::TrainConfig& config, std::int64_t dataset_vocab,
                       Device device) {
  NIBBLE_CHECK(memory_stats(kMeta).current == 0, "dry-run", "meta tensors are alive");
  release_cached_memory(kMeta);
  train::SampleStep bench(config, dataset_vocab, kMeta, device);
  const MemoryByModule by_module;
  MemoryPlan plan;
  for (const Parameter* p : parameters(bench.model())) plan.weights += p->numel();
  plan.float_products = has_float_products(bench.model(), recipes::parse(config.recipe));
  reset_peak_memory(kMeta);
  // Twice: only the second step finds the gradients' buffers already there, and a GPU records it in
  // a pool of its own.
  bench.micro_step();
  bench.update();
  {
    MemoryPool pool(kMeta);
    const MemoryPool::Use use(pool);
    bench.micro_step();
    bench.update();
  }
  plan.peak = memory_stats(kMeta).peak;
  plan.held = held_memory(kMeta).most;
  tell_peak(plan);
  plan.checkpoint = bytes_of(train::weight_tensors(bench.model())) +
                    bytes_of(bench.optimizer().state_tensors()) +
                    bytes_of(bench.scales().tensors());
  return plan;
}

}  // namespace nibble::cli
