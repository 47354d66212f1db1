#include "tensor/product_plans.h"

#include <atomic>
#include <mutex>

#ifdef NIBBLE_CUDA_BACKEND
#include "tensor/cuda/context.h"
#endif

namespace nibble {
namespace {

struct Table {
  std::mutex mutex;
  ProductPlans plans;
  std::atomic<std::uint64_t> version{0};
};
Table& table() {
  static auto* t = new Table;  // plans may be looked up while static objects die
  return *t;
}

}  // namespace

void use_product_plans(ProductPlans plans) {
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  t.plans = std::move(plans);
  ++t.version;
}

std::string planned(std::string_view key) {
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  const auto found = t.plans.find(key);
  return found == t.plans.end() ? std::string() : found->second;
}

std::uint64_t product_plans_version() { return table().version.load(); }

PlanEnvironment plan_environment(Device device) {
#ifdef NIBBLE_CUDA_BACKEND
  if (device.is_cuda()) {
    int driver = 0;
    NIBBLE_CUDA_CHECK(cudaDriverGetVersion(&driver));
    return {processor_name(device), static_cast<std::int64_t>(cublasLtGetVersion()), driver};
  }
#endif
  return {processor_name(device), 0, 0};
}

}  // namespace nibble
