// The tables that `nibble tune` writes: plans of matrix products, and where they were measured.
//
//   {"nibble_plans": 1, "device": "NVIDIA H200", "library": 130100, "driver": 13010,
//    "plans": [{"product": "…", "plan": "…", "what": "…", "us": 12.3, "untuned_us": 14.1}, …]}
//
// A table serves the device and the cuBLASLt version that it was measured with and is ignored, with
// a line that says so, anywhere else. Plans may change bits, so a run records the hash of its own.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "apps/config/json.h"
#include "tensor/product_plans.h"

namespace nibble::train {

struct PlanRow {
  std::string product, plan;      // as tensor/product_plans.h takes them
  std::string what;               // the plan in words
  double us = 0, untuned_us = 0;  // microseconds with the plan, and without a table
  bool operator==(const PlanRow&) const = default;
};
struct PlanTable {
  PlanEnvironment measured;
  std::vector<PlanRow> plans;  // no product twice
  bool operator==(const PlanTable&) const = default;
};

// Throws Error("plans") naming the file and what is wrong with it.
PlanTable read_plan_table(const std::filesystem::path& path);
// Appears whole or not at all.
void write_plan_table(const std::filesystem::path& path, const PlanTable& table);
PlanTable plan_table_from(const Json& json, const std::string& name);
Json to_json(const PlanTable& table);

// 16 hexadecimal digits of what can change bits: device, library, products and plans, in any order.
std::string plan_hash(const PlanTable& table);
// Why the table does not serve `here`; empty when it does. The driver may differ.
std::string stale_reason(const PlanTable& table, const PlanEnvironment& here);

// Makes the file's plans those of the process; none for an empty path or a table that is stale.
struct UsedPlans {
  std::string hash;  // of the plans in use, "" when there are none
  std::string note;  // a line to tell: that the table is ignored, and why
};
UsedPlans use_plan_table(const std::filesystem::path& path, Device device);

}  // namespace nibble::train
