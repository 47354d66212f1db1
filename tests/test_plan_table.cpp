// Tables of plans: what is read, what is refused, when one serves, and what a run says of its own.
#include "apps/run/append_file.h"
#include "apps/train/plan_table.h"
#include "train_testing.h"

namespace nibble::train {
namespace {

namespace fs = std::filesystem;
using doctest::Contains;
using test::message_of;
using test::TempDir;
using namespace testing;

PlanTable table_of(const PlanEnvironment& measured = {"NVIDIA H200", 130100, 13010}) {
  return {measured,
          {{"lt [1, 2, 3]", "lt 00ff", "algo 66", 12.5, 14.0},
           {"int [4, 5, 6]", "wgmma segment=4096", "wgmma segment=4096", 3.0, 3.0}}};
}
// One that serves the CPU, whose products have no choice: no plan of it is ever asked for.
const PlanEnvironment kCpuPlace{"cpu", 0, 0};

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

// The process's table is left empty, as it was found.
struct NoPlansAfter {
  ~NoPlansAfter() { use_product_plans({}); }
};

}  // namespace

TEST_CASE("plans: a table comes back as it was written, and appears whole") {
  const TempDir dir;
  const fs::path path = dir / "plans.json";
  write_plan_table(path, table_of());
  CHECK(read_plan_table(path) == table_of());
  write_plan_table(path, table_of(kCpuPlace));
  CHECK(read_plan_table(path) == table_of(kCpuPlace));
  CHECK(std::distance(fs::directory_iterator(path.parent_path()), {}) == 1);
}

TEST_CASE("plans: the hash is of what can change bits") {
  const std::string hash = plan_hash(table_of());
  CHECK(hash.size() == 16);
  const auto changed = [&](auto change) {
    PlanTable t = table_of();
    change(t);
    return plan_hash(t) != hash;
  };
  CHECK_FALSE(changed([](PlanTable& t) { std::swap(t.plans[0], t.plans[1]); }));
  CHECK_FALSE(changed([](PlanTable& t) { t.plans[0].us = 99; }));
  CHECK_FALSE(changed([](PlanTable& t) { t.plans[0].what = "other words"; }));
  CHECK_FALSE(changed([](PlanTable& t) { t.measured.driver = 13020; }));
  CHECK(changed([](PlanTable& t) { t.plans[0].plan = "lt 00fe"; }));
  CHECK(changed([](PlanTable& t) { t.plans[0].product = "lt [1, 2, 4]"; }));
  CHECK(changed([](PlanTable& t) { t.plans.pop_back(); }));
  CHECK(changed([](PlanTable& t) { t.measured.device = "NVIDIA H100"; }));
  CHECK(changed([](PlanTable& t) { t.measured.library = 130200; }));
}

TEST_CASE("plans: a table serves its device and library, whatever the driver") {
  const auto reason = [](const PlanEnvironment& here) { return stale_reason(table_of(), here); };
  CHECK(reason({"NVIDIA H200", 130100, 13010}).empty());
  CHECK(reason({"NVIDIA H200", 130100, 13020}).empty());
  CHECK(reason({"NVIDIA H100", 130100, 13010}) ==
        "it was measured on NVIDIA H200 with cuBLASLt 130100, and this is NVIDIA H100 with "
        "cuBLASLt 130100");
  CHECK(reason({"NVIDIA H200", 130200, 13010}) ==
        "it was measured on NVIDIA H200 with cuBLASLt 130100, and this is NVIDIA H200 with "
        "cuBLASLt 130200");
  CHECK(reason(kCpuPlace) ==
        "it was measured on NVIDIA H200 with cuBLASLt 130100, and this is cpu");
}

TEST_CASE("plans: products find theirs, and a new table replaces the old") {
  const NoPlansAfter guard;
  const TempDir dir;
  write_plan_table(dir / "here.json", table_of(kCpuPlace));
  write_plan_table(dir / "gpu.json", table_of());
  const std::uint64_t version = product_plans_version();
  const UsedPlans used = use_plan_table(dir / "here.json", kCpu);
  CHECK(used.hash == plan_hash(table_of(kCpuPlace)));
  CHECK(used.note.empty());
  CHECK(planned("int [4, 5, 6]") == "wgmma segment=4096");
  CHECK(planned("int [4, 5, 7]").empty());
  CHECK(product_plans_version() > version);
  const UsedPlans stale = use_plan_table(dir / "gpu.json", kCpu);
  CHECK(stale.hash.empty());
  CHECK(stale.note == (dir / "gpu.json").string() +
                          " is ignored: it was measured on NVIDIA H200 with cuBLASLt 130100, and "
                          "this is cpu");
  CHECK(planned("int [4, 5, 6]").empty());
  CHECK(use_plan_table("", kCpu).hash.empty());
}

TEST_CASE("plans: a corrupt table is one clear error") {
  const TempDir dir;
  const std::string whole = to_json(table_of()).dump();
  const auto refused = [&](const std::string& bytes, const char* part) {
    CAPTURE(bytes);
    const fs::path path = dir.write("bad.json", bytes);
    const std::string message = message_of([&] { (void)read_plan_table(path); });
    CHECK(contains(message, "plans: " + path.string()));
    CHECK(contains(message, part));
    CHECK(!contains(message, "\n"));
  };
  refused("", "is no table of plans, or a damaged one; nibble tune writes them");
  refused("{}", "is no table of plans");
  refused("[1, 2]", "is no table of plans");
  refused("{\"nibble_plans\": " + std::string(200000, '['), "is no table of plans");
  refused("{\"nibble_plans\": " + std::string(200000, '[') + std::string(200000, ']') + "}",
          "is no table of plans");
  refused("\xff\xfe", "is no table of plans");
  for (std::size_t cut = 1; cut < whole.size(); cut += 7)
    refused(whole.substr(0, cut), "is no table of plans, or a damaged one");
  const auto with = [&](const char* pointer, const Json& value) {
    Json json = to_json(table_of());
    json[Json::json_pointer(pointer)] = value;
    return json.dump();
  };
  const auto without = [&](const char* key) {
    Json json = to_json(table_of());
    json.erase(key);
    return json.dump();
  };
  refused(with("/nibble_plans", 2), "got version 2, expected 1; measure again with nibble tune");
  refused(with("/device", 3), "device: got 3, expected a text");
  refused(with("/library", "13.1"), "library: got \"13.1\", expected a whole number");
  refused(without("driver"), "no \"driver\"");
  refused(with("/plans", Json::object()), "plans: expected a list");
  refused(with("/plans/0", 7), "no \"product\" in 7");
  refused(with("/plans/0/plan", ""), "plan: got \"\", expected a text");
  refused(with("/plans/1/us", "fast"), "us: got \"fast\", expected a number");
  refused(with("/plans/1/product", "lt [1, 2, 3]"), "'lt [1, 2, 3]' appears twice");
  CHECK_THROWS_WITH(read_plan_table(dir / "nowhere.json"),
                    Contains("nowhere.json is not a file; nibble tune writes one"));
}

TEST_CASE("plans: a run records the hash of its own, and going on with others is told") {
  const NoPlansAfter guard;
  const TempDir dir;
  const auto data = make_dataset(dir);
  const fs::path first = dir / "first.json", second = dir / "second.json", gpu = dir / "gpu.json";
  write_plan_table(first, table_of(kCpuPlace));
  PlanTable other = table_of(kCpuPlace);
  other.plans[0].plan = "lt 1234";
  write_plan_table(second, other);
  write_plan_table(gpu, table_of());
  const std::string hash = plan_hash(table_of(kCpuPlace)), other_hash = plan_hash(other);

  Run run(tiny_config(data, {{"tune", first.string()}}), dir / "run");
  run.options.max_minutes = 1e-9;
  const auto sessions = [&] {
    return Json::parse(run::read_whole_file(run.options.output / "run.json", "test"))["sessions"];
  };
  const auto state = [&] { return Loaded(list_checkpoints(run.checkpoints()).back().path).state; };
  CHECK(run.go() == Outcome::TimeLimit);
  CHECK(sessions().back()["plan_hash"] == hash);
  CHECK(state()["plans"] == hash);
  CHECK(run.resume() == Outcome::TimeLimit);
  CHECK(!contains(run.log, "warning"));

  run.options.config.tune = second;
  CHECK(run.resume() == Outcome::TimeLimit);
  CHECK(contains(run.log, "warning: the checkpoint was written with the plans " + hash +
                              " and goes on with the plans " + other_hash + ": not bit-exact"));
  CHECK(state()["plans"] == other_hash);

  run.options.config.tune = gpu;
  CHECK(run.resume() == Outcome::TimeLimit);
  CHECK(contains(run.log, "warning: " + gpu.string() + " is ignored: it was measured on NVIDIA"));
  CHECK(contains(run.log, "with the plans " + other_hash +
                              " and goes on without a table of plans: not bit-exact"));
  CHECK(sessions().back()["plan_hash"] == "");
  CHECK(!state().contains("plans"));

  run.options.config.tune = dir / "nowhere.json";
  CHECK_THROWS_WITH(run.resume(), Contains("nowhere.json is not a file"));
}

}  // namespace nibble::train
