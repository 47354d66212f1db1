// nibble train: begins or resumes a run, or says what it would take.
#include "apps/train/trainer.h"

#include <CLI/CLI.hpp>
#include <memory>

#include "apps/cli/cli.h"
#include "apps/cli/commands.h"
#include "apps/cli/dry_run.h"
#include "apps/cli/memory_fit.h"
#include "apps/cli/resume_config.h"
#include "apps/profile/profile_table.h"
#include "apps/train/plan_table.h"

namespace nibble::cli {
namespace {

struct Options {
  std::string output, init, dry_run, tune;
  std::vector<std::string> configs, overrides;
  bool resume = false;
  double max_minutes = 0;
  std::string graph = "auto", profile_steps, kernels;
  Machinery machinery;
};

ExitCode exit_code(train::Outcome outcome) {
  switch (outcome) {
    case train::Outcome::TimeLimit: return kTimeLimit;
    case train::Outcome::Stopped: return kStopped;
    case train::Outcome::Finished: break;
  }
  return kOk;
}

train::GraphUse graph_use(const std::string& word) {
  if (word == "on") return train::GraphUse::On;
  return word == "off" ? train::GraphUse::Off : train::GraphUse::Auto;
}

profile::Range profile_range(const std::string& text, Device device) {
  if (text.empty()) return {};
  NIBBLE_CHECK(device.is_cuda(), "profile",
               "--profile-steps: got device {}, expected a GPU: Nsight watches CUDA; "
               "for the CPU use perf",
               device);
  return profile::parse_range(text);
}

// When it was written; nothing where it is not.
std::optional<std::filesystem::file_time_type> written(const std::filesystem::path& file) {
  std::error_code error;
  const auto time = std::filesystem::last_write_time(file, error);
  return error ? std::nullopt : std::optional(time);
}

void show_kernels(const std::filesystem::path& file) {
  const profile::KernelProfile profile = profile::read_profile(file);
  fmt::print("\n{}\n{}", profile::class_table(profile), profile::kernel_table(profile, 40));
}

int run_train(const Options& o, const std::vector<std::string>& argv) {
  const Device device = o.machinery.apply();
  config::Paths files;
  for (const std::string& list : o.configs)
    for (const auto& file : config::split_files(list)) files.push_back(file);
  train::TrainOptions options{
      .config = o.resume ? resume_config(o.output, files, o.overrides)
                         : train::read_config(config::load(files, o.overrides)),
      .output = o.output,
      .resume = o.resume,
      .init = o.init,
      .max_minutes = o.max_minutes,
      .device = device,
      .graph = graph_use(o.graph),
      .profile = profile_range(o.profile_steps, device),
      .kernels = o.kernels.empty() ? profile::Range{} : profile::parse_range(o.kernels),
      .command = argv,
      .log = stderr};
  NIBBLE_CHECK(
      o.init.empty() || options.config.trainer.keep > 0, "train",
      "--init: got trainer.keep 0, expected at least 1; a run that goes on reads its first "
      "weights from a checkpoint of its own");
  if (!o.tune.empty()) options.config.tune = o.tune;
  if (!o.dry_run.empty()) {
    if (const auto plans = train::use_plan_table(options.config.tune, device); !plans.note.empty())
      fmt::print(stderr, "nibble: warning: {}\n", plans.note);
    return dry_run(options, o.dry_run == "full");
  }
  check_plan(options);
  try {
    const std::filesystem::path table = options.output / train::kKernelsFile;
    const auto before = written(table);  // a run that goes on may have an older one
    const ExitCode code = exit_code(train::train(options));
    if (o.kernels.empty()) return code;
    if (written(table) != before)
      show_kernels(table);
    else
      fmt::print(stderr, "nibble: warning: kernels: the last of steps {} was not made\n",
                 o.kernels);
    return code;
  } catch (const OutOfMemory& e) {
    fail_with_what_would_fit(e, options);
  }
}

}  // namespace

void add_train(CommandLine& line) {
  auto o = std::make_shared<Options>();
  CLI::App* c = line.app.add_subcommand("train", "Train a model");
  c->add_option("--config", o->configs, "Files A,B,…: later ones win; also looked for in configs/")
      ->take_all()
      ->expected(1);
  c->add_option("--set", o->overrides, "One value on top: trainer.lr=3e-4; may be repeated")
      ->take_all()
      ->expected(1);
  c->add_option("--output", o->output, "The run's folder")->required();
  auto* resume = c->add_flag("--resume", o->resume,
                             "Go on from the newest checkpoint of --output, with its config");
  c->add_option("--init", o->init, "Start from the weights of a checkpoint or run")
      ->excludes(resume);
  c->add_option("--tune", o->tune, "The plans of products that nibble tune measured; a file");
  c->add_option("--max-minutes", o->max_minutes, "Stop with a checkpoint after this long")
      ->check(CLI::Range(0.0, 1e9));
  c->add_option("--graph", o->graph,
                "Replay steps as one CUDA graph: auto (on a GPU), on or off; the bits are the same")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str();
  c->add_option("--profile-steps", o->profile_steps,
                "FIRST:LAST: steps (from 1) that run kernel by kernel with NVTX ranges, between "
                "cudaProfilerStart and Stop; for nsys --capture-range=cudaProfilerApi and ncu");
  c->add_option("--kernels", o->kernels,
                "FIRST:LAST: steps (from 1) whose kernels are timed as they run, in the graph too; "
                "prints the time by class and by kernel, and keeps it in kernels.json of the run");
  c->add_flag("--dry-run{full}", o->dry_run,
              "Only say the memory, time and disk it takes; =plan runs no step for the time")
      ->check(CLI::IsMember({"full", "plan"}));
  o->machinery.add_to(*c);
  c->callback([o, &line] { line.action = [o, argv = line.argv] { return run_train(*o, argv); }; });
}

}  // namespace nibble::cli
