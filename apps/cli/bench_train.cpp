#include "apps/cli/bench_train.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "apps/bench/process.h"
#include "apps/bench/train.h"
#include "apps/cli/memory_plan.h"
#include "apps/config/jsonnet.h"
#include "apps/config/overrides.h"
#include "apps/train/build.h"
#include "data/dataset.h"
#include "tensor/atomic_file.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;
constexpr const char* kOp = "bench";

struct Options {
  std::vector<std::string> configs, overrides, recipes{"none", "int8"}, peers;
  std::string json;
  std::int64_t steps = 200;
  int rounds = 1;
  double seconds = 600;
  Machinery machinery;
};

// A folder that is gone with its owner.
class Scratch {
 public:
  Scratch() {
    std::string name = (fs::temp_directory_path() / "nibble-bench-XXXXXX").string();
    NIBBLE_CHECK(mkdtemp(name.data()), kOp, "no temporary folder can be made in {}",
                 fs::temp_directory_path().string());
    path_ = name;
  }
  ~Scratch() {
    std::error_code error;
    fs::remove_all(path_, error);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

train::TrainConfig read(const Options& o, const std::string& recipe) {
  config::Paths files;
  for (const std::string& list : o.configs)
    for (const auto& file : config::split_files(list)) files.push_back(file);
  std::vector<std::string> overrides = o.overrides;
  overrides.push_back("recipe=" + recipe);
  return train::read_config(config::load(files, overrides));
}

// Runs of this very program. A new folder for every run: a training run does not overwrite another.
bench::Contender own(const Options& o, const std::string& recipe, std::int64_t steps,
                     const fs::path& run) {
  std::vector<std::string> argv{fs::read_symlink("/proc/self/exe").string(), "train"};
  const auto add = [&](const std::string& flag, const std::string& value) {
    argv.push_back(flag);
    argv.push_back(value);
  };
  for (const std::string& file : o.configs) add("--config", file);
  for (const std::string& text : o.overrides) add("--set", text);
  add("--set", "recipe=" + recipe);
  for (const char* text : {"trainer.log_every=1", "trainer.eval_every=0", "trainer.eval_batches=1",
                           "trainer.checkpoint_every=0"})
    add("--set", text);
  add("--set", fmt::format("trainer.steps={}", steps));
  add("--device", o.machinery.device);
  if (o.machinery.threads > 0) add("--threads", std::to_string(o.machinery.threads));
  add("--output", run.string());
  return {.name = recipe, .command = argv, .metrics = (run / "metrics.jsonl").string()};
}

// NAME=COMMAND, which gets the model's and the batch's sizes as arguments.
bench::Contender peer(const std::string& text, const train::TrainConfig& c, std::int64_t vocab,
                      std::int64_t steps) {
  const auto equals = text.find('=');
  NIBBLE_CHECK(equals != std::string::npos && equals > 0 && equals + 1 < text.size(), kOp,
               "--peer: got '{}', expected NAME=COMMAND", text);
  bench::Contender out{.name = text.substr(0, equals),
                       .command = bench::split_command(text.substr(equals + 1)),
                       .metrics = ""};
  const Gpt2Config model = train::gpt2_of(c.model, vocab);
  const std::pair<const char*, std::int64_t> sizes[] = {
      {"--layers", model.layers},
      {"--heads", model.heads},
      {"--width", model.width},
      {"--vocab", model.vocab},
      {"--batch", c.trainer.batch},
      {"--length", c.data.sequence ? c.data.sequence : model.context},
      {"--accumulation", c.trainer.accumulation},
      {"--steps", steps}};
  for (const auto& [flag, value] : sizes) {
    out.command.emplace_back(flag);
    out.command.push_back(std::to_string(value));
  }
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
                        {"tensors_bytes", r.tensors},
                        {"process_bytes", r.process},
                        {"sm_clock_mhz", r.gpu.clock_mhz},
                        {"watts", r.gpu.watts}};
  if (r.host_seconds >= 0) out["host_seconds"] = r.host_seconds;
  if (!r.fault.empty()) out["fault"] = r.fault;
  return out;
}

int finish(const Options& o, const nlohmann::json& out, bool faulty) {
  if (!o.json.empty()) {
    AtomicFile file(o.json, kOp);
    file.write(out.dump(1) + "\n");
    file.commit();
  }
  NIBBLE_CHECK(!faulty, kOp, "some runs failed: see above");
  return 0;
}

void tell(const bench::TrainRun& r) {
  if (!r.fault.empty()) fmt::print(stderr, "nibble: {}: {}\n", r.name, r.fault);
}

int run_train(const Options& o) {
  NIBBLE_CHECK(o.steps > bench::kWarmSteps, kOp,
               "--steps: got {}, expected more than the {} that don't count", o.steps,
               bench::kWarmSteps);
  const Device device = o.machinery.apply();
  check_available(device);
  const train::TrainConfig first = read(o, "none");
  const std::int64_t vocab = read_dataset(first.data.path).vocab_size;
  const double flops =
      train::build_model(first, vocab, kMeta)
          ->flops_per_token(first.data.sequence ? first.data.sequence
                                                : train::gpt2_of(first.model, vocab).context);
  const Scratch scratch;
  bench::TrainOptions options{.device = device,
                              .contenders = {},
                              .rounds = o.rounds,
                              .seconds = o.seconds,
                              .folder = scratch.path(),
                              .each = tell};
  fmt::print("{}; {} steps of {} x {}, {} round{}; medians of the steps after {}\n\n",
             processor_name(device), o.steps, first.trainer.batch * first.trainer.accumulation,
             first.data.sequence ? first.data.sequence : train::gpt2_of(first.model, vocab).context,
             o.rounds, o.rounds == 1 ? "" : "s in turn", bench::kWarmSteps);
  std::fflush(stdout);
  for (std::size_t i = 0; i < o.recipes.size(); ++i) {
    (void)read(o, o.recipes[i]);  // a bad one is an error before anything runs
    options.contenders.push_back(
        own(o, o.recipes[i], o.steps, scratch.path() / fmt::format("run{}-{{round}}", i)));
  }
  for (const std::string& text : o.peers)
    options.contenders.push_back(peer(text, first, vocab, o.steps));
  const std::vector<bench::TrainRun> rows = bench::bench_train(options);
  fmt::print(
      "| program | tokens/s | of the first | TFLOP/s | host, ms a step | first step after, s | "
      "tensors, GiB | "
      "process, GiB | SM MHz | W | last loss |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
  nlohmann::json out = {{"device", processor_name(device)}, {"rows", nlohmann::json::array()}};
  bool faulty = false;
  for (const bench::TrainRun& r : rows) {
    out["rows"].push_back(json_of(r));
    faulty |= !r.fault.empty();
    if (!r.fault.empty()) {
      fmt::print("| {} | failed | - | - | - | - | - | - | - | - | - |\n", r.name);
      continue;
    }
    const bool clock = r.gpu.clock_mhz > 0;
    fmt::print("| {} | {:.0f} | {} | {:.4g} | {} | {:.1f} | {} | {} | {} | {} | {:.4f} |\n", r.name,
               r.tokens_per_second,
               rows.front().tokens_per_second > 0
                   ? fmt::format("{:.3f}", r.tokens_per_second / rows.front().tokens_per_second)
                   : "-",
               flops * r.tokens_per_second * 1e-12,
               r.host_seconds >= 0 ? fmt::format("{:.2f}", r.host_seconds * 1e3) : "-",
               r.first_step_seconds, gib(r.tensors), gib(r.process),
               clock ? fmt::format("{:.0f}", r.gpu.clock_mhz) : "-",
               clock ? fmt::format("{:.0f}", r.gpu.watts) : "-", r.last_loss);
  }
  return finish(o, out, faulty);
}

// What the Meta device counts beside what a run then takes.
int run_memory(const Options& o) {
  const Device device = o.machinery.apply();
  check_available(device);
  const Scratch scratch;
  bench::TrainOptions options{.device = device,
                              .contenders = {},
                              .rounds = 1,
                              .seconds = o.seconds,
                              .folder = scratch.path(),
                              .each = tell};
  std::vector<std::int64_t> planned;
  const auto off_by = [](std::int64_t plan, std::int64_t real) {
    return real > 0 ? fmt::format("{:+.1f} %", 100.0 * static_cast<double>(plan - real) /
                                                   static_cast<double>(real))
                    : std::string("-");
  };
  for (std::size_t i = 0; i < o.recipes.size(); ++i) {
    const train::TrainConfig config = read(o, o.recipes[i]);
    planned.push_back(plan_memory(config, read_dataset(config.data.path).vocab_size).peak);
    options.contenders.push_back(own(o, o.recipes[i], bench::kWarmSteps + 2,
                                     scratch.path() / fmt::format("run{}-{{round}}", i)));
  }
  const std::vector<bench::TrainRun> rows = bench::bench_train(options);
  fmt::print(
      "{}\n\n| recipe | planned, GiB | tensors, GiB | off by | process planned, GiB | process, GiB "
      "| "
      "off by |\n|---|---|---|---|---|---|---|\n",
      processor_name(device));
  nlohmann::json out = {{"device", processor_name(device)}, {"rows", nlohmann::json::array()}};
  bool faulty = false;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const bench::TrainRun& r = rows[i];
    nlohmann::json row = json_of(r);
    row["planned_bytes"] = planned[i];
    row["planned_process_bytes"] = process_memory(planned[i], device);
    out["rows"].push_back(std::move(row));
    faulty |= !r.fault.empty();
    if (!r.fault.empty()) {
      fmt::print("| {} | {} | failed | - | - | - | - |\n", r.name, gib(planned[i]));
      continue;
    }
    const std::int64_t process = process_memory(planned[i], device);
    fmt::print("| {} | {} | {} | {} | {} | {} | {} |\n", r.name, gib(planned[i]), gib(r.tensors),
               off_by(planned[i], r.tensors), device.is_cuda() ? gib(process) : "-", gib(r.process),
               device.is_cuda() ? off_by(process, r.process) : "-");
  }
  return finish(o, out, faulty);
}

}  // namespace

void add_bench_train(CLI::App& bench, CommandLine& line) {
  auto o = std::make_shared<Options>();
  CLI::App* train = bench.add_subcommand(
      "train", "Training runs of a configuration under several recipes, and of other programs");
  CLI::App* memory = bench.add_subcommand(
      "memory", "What a configuration's training takes, beside what was planned");
  for (CLI::App* part : {train, memory}) {
    part->add_option("--config", o->configs,
                     "Files A,B,…: later ones win; also looked for in configs/");
    part->add_option("--set", o->overrides, "One value on top: trainer.batch=8; may be repeated");
    part->add_option("--recipe", o->recipes, "A recipe; may be repeated")->capture_default_str();
    part->add_option("--seconds", o->seconds, "A run that lasts longer is ended")
        ->check(CLI::Range(1.0, 1e6))
        ->capture_default_str();
    part->add_option("--json", o->json, "Also write everything to this file");
    o->machinery.add_to(*part);
  }
  train->add_option(
      "--peer", o->peers,
      "NAME=COMMAND of another program, which gets --layers, --heads, --width, --vocab, --batch, "
      "--length, --accumulation and --steps and prints a JSON object a step: step, "
      "tokens_per_second; may be repeated");
  train->add_option("--steps", o->steps, "Steps of a run")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  train->add_option("--rounds", o->rounds, "Runs of each program, in turns")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  train->callback([o, &line] { line.action = [o] { return run_train(*o); }; });
  memory->callback([o, &line] { line.action = [o] { return run_memory(*o); }; });
}

}  // namespace nibble::cli
