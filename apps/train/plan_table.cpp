#include "apps/train/plan_table.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "apps/run/append_file.h"
#include "tensor/atomic_file.h"
#include "tensor/check.h"
#include "tensor/json_text.h"

namespace nibble::train {
namespace {

constexpr const char* kOp = "plans";
constexpr int kVersion = 1;

const Json& member(const Json& object, const char* key, const std::string& name) {
  NIBBLE_CHECK(object.is_object() && object.contains(key), kOp, "{}: no \"{}\" in {}", name, key,
               object.is_object() ? "an entry" : object.dump().substr(0, 40));
  return object[key];
}
std::string text(const Json& object, const char* key, const std::string& name) {
  const Json& value = member(object, key, name);
  NIBBLE_CHECK(value.is_string() && !value.get_ref<const std::string&>().empty(), kOp,
               "{}: {}: got {}, expected a text", name, key, value.dump().substr(0, 40));
  return value.get<std::string>();
}
std::int64_t whole(const Json& object, const char* key, const std::string& name) {
  const Json& value = member(object, key, name);
  NIBBLE_CHECK(value.is_number_integer(), kOp, "{}: {}: got {}, expected a whole number", name, key,
               value.dump().substr(0, 40));
  return value.get<std::int64_t>();
}
double microseconds(const Json& object, const char* key, const std::string& name) {
  const Json& value = member(object, key, name);
  NIBBLE_CHECK(value.is_number() && std::isfinite(value.get<double>()), kOp,
               "{}: {}: got {}, expected a number", name, key, value.dump().substr(0, 40));
  return value.get<double>();
}

std::string place(const PlanEnvironment& e) {
  return e.library == 0 ? e.device : fmt::format("{} with cuBLASLt {}", e.device, e.library);
}

}  // namespace

PlanTable plan_table_from(const Json& json, const std::string& name) {
  NIBBLE_CHECK(json.is_object() && json.contains("nibble_plans"), kOp,
               "{} is no table of plans, or a damaged one; nibble tune writes them", name);
  const std::int64_t version = whole(json, "nibble_plans", name);
  NIBBLE_CHECK(version == kVersion, kOp,
               "{}: got version {}, expected {}; measure again with nibble tune", name, version,
               kVersion);
  PlanTable table;
  table.measured = {.device = text(json, "device", name),
                    .library = whole(json, "library", name),
                    .driver = whole(json, "driver", name)};
  const Json& plans = member(json, "plans", name);
  NIBBLE_CHECK(plans.is_array(), kOp, "{}: plans: expected a list", name);
  std::set<std::string> products;
  for (const Json& entry : plans) {
    PlanRow row{.product = text(entry, "product", name),
                .plan = text(entry, "plan", name),
                .what = text(entry, "what", name),
                .us = microseconds(entry, "us", name),
                .untuned_us = microseconds(entry, "untuned_us", name)};
    NIBBLE_CHECK(products.insert(row.product).second, kOp, "{}: '{}' appears twice", name,
                 row.product);
    table.plans.push_back(std::move(row));
  }
  return table;
}

Json to_json(const PlanTable& table) {
  Json plans = Json::array();
  for (const PlanRow& row : table.plans)
    plans.push_back({{"product", row.product},
                     {"plan", row.plan},
                     {"what", row.what},
                     {"us", row.us},
                     {"untuned_us", row.untuned_us}});
  return {{"nibble_plans", kVersion},
          {"device", table.measured.device},
          {"library", table.measured.library},
          {"driver", table.measured.driver},
          {"plans", std::move(plans)}};
}

PlanTable read_plan_table(const std::filesystem::path& path) {
  NIBBLE_CHECK(std::filesystem::is_regular_file(path), kOp,
               "{} is not a file; nibble tune writes one, --set tune= goes on without",
               path.string());
  return plan_table_from(parse_json<Json>(run::read_whole_file(path, kOp)), path.string());
}

void write_plan_table(const std::filesystem::path& path, const PlanTable& table) {
  write_file_atomically(
      path, to_json(table).dump(1, ' ', false, Json::error_handler_t::replace) + "\n", kOp);
}

std::string plan_hash(const PlanTable& table) {
  std::vector<std::string> lines;
  for (const PlanRow& row : table.plans) lines.push_back(row.product + "\t" + row.plan + "\n");
  std::sort(lines.begin(), lines.end());
  std::string all = fmt::format("{}\n{}\n", table.measured.device, table.measured.library);
  for (const std::string& line : lines) all += line;
  return fmt::format("{:016x}", XXH64(all.data(), all.size(), 0));
}

std::string stale_reason(const PlanTable& table, const PlanEnvironment& here) {
  const PlanEnvironment& then = table.measured;
  if (then.device == here.device && then.library == here.library) return "";
  return fmt::format("it was measured on {}, and this is {}", place(then), place(here));
}

UsedPlans use_plan_table(const std::filesystem::path& path, Device device) {
  use_product_plans({});
  if (path.empty()) return {};
  const PlanTable table = read_plan_table(path);
  if (const std::string why = stale_reason(table, plan_environment(device)); !why.empty())
    return {.hash = "", .note = fmt::format("{} is ignored: {}", path.string(), why)};
  ProductPlans plans;
  for (const PlanRow& row : table.plans) plans.emplace(row.product, row.plan);
  use_product_plans(std::move(plans));
  return {.hash = plan_hash(table), .note = ""};
}

}  // namespace nibble::train
