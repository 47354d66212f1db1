// How this process forms matrix products where there is a choice: plans that `nibble tune`
// measured, by the product's key. A product asks for its plan when it is first planned; without one
// it takes what it always does (the library's first suggestion, the kernels' own choice). Nothing
// is measured here, so that equal tables give equal bits.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "tensor/device.h"

namespace nibble {

// Both texts are the business of who forms the product: "lt bf16…" to "lt 0123…".
using ProductPlans = std::map<std::string, std::string, std::less<>>;

// Replaces the table of the process, also for products that were planned before. No product may be
// under way in another thread.
void use_product_plans(ProductPlans plans);
// The plan of a product, "" when the table has none.
std::string planned(std::string_view key);
// Counts calls of use_product_plans: what was planned under another number is out of date.
std::uint64_t product_plans_version();

// What plans depend on beside the product: they serve nowhere else.
struct PlanEnvironment {
  std::string device;        // "NVIDIA H200"; "cpu" where products have no choice
  std::int64_t library = 0;  // cuBLASLt's version: 130100 is 13.1.0
  std::int64_t driver = 0;   // the CUDA version that the driver serves: 13010 is 13.1
  bool operator==(const PlanEnvironment&) const = default;
};
PlanEnvironment plan_environment(Device device);

}  // namespace nibble
