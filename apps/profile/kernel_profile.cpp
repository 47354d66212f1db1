#include "apps/profile/kernel_profile.h"

#include <algorithm>
#include <fstream>
#include <map>

#include "tensor/check.h"

namespace nibble::profile {
namespace {

constexpr const char* kOperationNames[kOperationKinds] = {"int_products", "fp8_products",
                                                          "float_products", "attention"};

// Of intervals sorted by their begin, where at least one is.
std::int64_t covered(const std::vector<KernelRun>& runs) {
  std::int64_t total = 0, end = runs.front().begin;
  for (const KernelRun& run : runs) {
    total += std::max<std::int64_t>(0, run.end - std::max(end, run.begin));
    end = std::max(end, run.end);
  }
  return total;
}

}  // namespace

KernelTime KernelProfile::total(KernelClass of) const {
  KernelTime sum{.name = class_name(of), .of = of};
  for (const KernelTime& k : kernels)
    if (k.of == of) sum.launches += k.launches, sum.seconds += k.seconds;
  return sum;
}

KernelProfile summarize(const std::vector<KernelRun>& runs, std::int64_t steps) {
  NIBBLE_CHECK(!runs.empty() && steps > 0, "kernels", "{} kernels ran in {} steps, expected some",
               runs.size(), steps);
  const double each = 1.0 / static_cast<double>(steps);
  std::map<std::string, KernelTime> by_name;
  std::int64_t last = 0;
  for (const KernelRun& run : runs) {
    KernelTime& k = by_name[run.name];
    if (k.name.empty()) k.name = short_name(run.name), k.of = classify(run.name);
    k.launches += each;
    k.seconds += 1e-9 * static_cast<double>(run.end - run.begin) * each;
    last = std::max(last, run.end);
  }
  KernelProfile profile;
  profile.steps = steps;
  profile.step_seconds = 1e-9 * static_cast<double>(last - runs.front().begin) * each;
  profile.busy_seconds = 1e-9 * static_cast<double>(covered(runs)) * each;
  for (auto& [name, k] : by_name) profile.kernels.push_back(std::move(k));
  std::ranges::stable_sort(profile.kernels, std::greater(), &KernelTime::seconds);
  return profile;
}

Json to_json(const KernelProfile& p) {
  Json json = {{"processor", p.processor},
               {"steps", p.steps},
               {"step_seconds", p.step_seconds},
               {"busy_seconds", p.busy_seconds},
               {"memory", p.memory}};
  for (std::size_t i = 0; i < kOperationKinds; ++i)
    json["operations"][kOperationNames[i]] = p.operations.of[i];
  json["kernels"] = Json::array();
  for (const KernelTime& k : p.kernels)
    json["kernels"].push_back({{"name", k.name},
                               {"class", class_name(k.of)},
                               {"launches", k.launches},
                               {"seconds", k.seconds}});
  return json;
}

KernelProfile kernel_profile_of(const Json& json) {
  KernelProfile p;
  try {
    p.processor = json.at("processor").get<std::string>();
    p.steps = json.at("steps").get<std::int64_t>();
    p.step_seconds = json.at("step_seconds").get<double>();
    p.busy_seconds = json.at("busy_seconds").get<double>();
    p.memory = json.at("memory").get<std::int64_t>();
    for (std::size_t i = 0; i < kOperationKinds; ++i)
      p.operations.of[i] = json.at("operations").at(kOperationNames[i]).get<double>();
    for (const Json& row : json.at("kernels")) {
      KernelTime k{.name = row.at("name").get<std::string>(),
                   .launches = row.at("launches").get<double>(),
                   .seconds = row.at("seconds").get<double>()};
      const auto name = row.at("class").get<std::string>();
      for (int i = 0; i < kKernelClasses; ++i)
        if (name == class_name(static_cast<KernelClass>(i))) k.of = static_cast<KernelClass>(i);
      p.kernels.push_back(std::move(k));
    }
  } catch (const nlohmann::json::exception& e) {
    fail("kernels", "not a profile of kernels: {}", e.what());
  }
  return p;
}

KernelProfile read_profile(const std::filesystem::path& file) {
  std::ifstream in(file);
  NIBBLE_CHECK(in, "kernels", "cannot read {}", file.string());
  return kernel_profile_of(Json::parse(in, nullptr, false));
}

}  // namespace nibble::profile
