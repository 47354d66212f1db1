#include "apps/cli/bench_runs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>

#include "apps/config/jsonnet.h"
#include "apps/config/overrides.h"
#include "apps/train/trainer.h"
#include "tensor/atomic_file.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;
constexpr const char* kOp = "bench";

// Settings that a measurement makes itself, beside the recipe and the number of steps.
constexpr std::array kQuiet{"trainer.log_every=1", "trainer.eval_every=0", "trainer.eval_batches=1",
                            "trainer.checkpoint_every=0", "trainer.keep=0"};

// A setting of the user's that would be overridden without a word.
void check_free(const char* flag, const std::string& text) {
  const std::string key = text.substr(0, text.find('='));
  NIBBLE_CHECK(key != "recipe", kOp, "{} {}: expected the recipe as --recipe", flag, text);
  NIBBLE_CHECK(key != "trainer.steps", kOp, "{} {}: expected the number as --steps", flag, text);
  for (const std::string_view own : kQuiet)
    NIBBLE_CHECK(key != own.substr(0, own.find('=')), kOp, "{} {}: it is {} in every measurement",
                 flag, text, own);
}

}  // namespace

ScratchFolder::ScratchFolder() {
  std::string name = (fs::temp_directory_path() / "nibble-bench-XXXXXX").string();
  NIBBLE_CHECK(mkdtemp(name.data()), kOp, "no temporary folder can be made in {}",
               fs::temp_directory_path().string());
  path_ = name;
}
ScratchFolder::~ScratchFolder() {
  std::error_code error;
  fs::remove_all(path_, error);
}

std::string BenchVariant::name() const {
  return overrides.empty() ? recipe : fmt::format("{}; {}", recipe, fmt::join(overrides, "; "));
}

std::vector<BenchVariant> variants(const BenchRuns& o) {
  for (const std::string& text : o.overrides) check_free("--set", text);
  std::vector<BenchVariant> all;
  for (const std::string& recipe : o.recipes) all.push_back({recipe, {}});
  for (const std::string& text : o.vary) {
    const auto equals = text.find('=');
    NIBBLE_CHECK(equals != std::string::npos && equals > 0 && equals + 1 < text.size(), kOp,
                 "--vary: got '{}', expected KEY=VALUE,VALUE,…", text);
    check_free("--vary", text);
    std::vector<BenchVariant> wider;
    for (const BenchVariant& v : all)
      for (const auto& value : config::split_files(text.substr(equals + 1))) {
        wider.push_back(v);
        wider.back().overrides.push_back(text.substr(0, equals + 1) + value.string());
      }
    all = std::move(wider);
  }
  return all;
}

train::TrainConfig read_variant(const BenchRuns& o, const BenchVariant& variant) {
  config::Paths files;
  for (const std::string& list : o.configs)
    for (const auto& file : config::split_files(list)) files.push_back(file);
  std::vector<std::string> overrides = o.overrides;
  for (const std::string& text : variant.overrides) overrides.push_back(text);
  overrides.push_back("recipe=" + variant.recipe);
  return train::read_config(config::load(files, overrides));
}

std::int64_t last_step(const BenchRuns& o, std::int64_t steps) {
  constexpr std::int64_t kEndless = 1000000;
  return o.least_seconds > 0 ? kEndless : steps + o.kernels;
}

bench::Contender own_run(const BenchRuns& o, const BenchVariant& variant, std::int64_t steps,
                         const fs::path& run) {
  std::vector<std::string> argv{fs::read_symlink("/proc/self/exe").string(), "train"};
  const auto add = [&](const std::string& flag, const std::string& value) {
    argv.push_back(flag);
    argv.push_back(value);
  };
  for (const std::string& file : o.configs) add("--config", file);
  for (const std::string& text : o.overrides) add("--set", text);
  for (const std::string& text : variant.overrides) add("--set", text);
  add("--set", "recipe=" + variant.recipe);
  for (const char* text : kQuiet) add("--set", text);
  bench::Contender out{.name = variant.name(),
                       .command = {},
                       .metrics = (run / "metrics.jsonl").string(),
                       .kernels = {}};
  if (o.kernels > 0) {
    out.traced = {steps + 1, steps + o.kernels};
    out.kernels = (run / train::kKernelsFile).string();
    add("--kernels", fmt::format("{}:{}", out.traced.first, out.traced.last));
  }
  add("--set", fmt::format("trainer.steps={}", last_step(o, steps)));
  add("--device", o.machinery.device);
  if (o.machinery.threads > 0) add("--threads", std::to_string(o.machinery.threads));
  add("--output", run.string());
  out.command = std::move(argv);
  return out;
}

std::string gib(std::int64_t bytes) {
  return bytes > 0 ? fmt::format("{:.2f}", static_cast<double>(bytes) / (1 << 30)) : "-";
}

nlohmann::json json_of(const bench::TrainRun& r) {
  nlohmann::json out = {{"name", r.name},
                        {"steps", r.steps},
                        {"tokens_per_second", r.tokens_per_second},
                        {"first_step_seconds", r.first_step_seconds},
                        {"loss", r.last_loss},
                        {"seconds", r.seconds}};
  const auto add_known = [&out](const char* key, auto value) {
    if (value > 0) out[key] = value;
  };
  add_known("tensors_bytes", r.tensors);
  add_known("held_bytes", r.held);
  add_known("process_bytes", r.process);
  add_known("sm_clock_mhz", r.gpu.clock_mhz);
  add_known("watts", r.gpu.watts);
  if (r.host_seconds >= 0) out["host_seconds"] = r.host_seconds;
  if (!r.fault.empty()) out["fault"] = r.fault;
  if (r.kernels) out["kernels"] = nlohmann::json::parse(profile::to_json(*r.kernels).dump());
  return out;
}

void check_json(const BenchRuns& o) {
  if (o.json.empty()) return;
  NIBBLE_CHECK(fs::is_directory(fs::absolute(o.json).parent_path()), kOp,
               "--json: got {}, expected a file in a folder that exists", o.json);
}

int finish(const BenchRuns& o, const nlohmann::json& out, bool faulty) {
  if (!o.json.empty()) {
    AtomicFile file(o.json, kOp);
    file.write(out.dump(1) + "\n");
    file.commit();
  }
  NIBBLE_CHECK(!faulty, kOp, "some runs failed: see above");
  return 0;
}

void tell_fault(const bench::TrainRun& r) {
  if (!r.fault.empty()) fmt::print(stderr, "nibble: {}: {}\n", r.name, r.fault);
}

}  // namespace nibble::cli
