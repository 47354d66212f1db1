// nibble bench train: whole training runs beside other programs'.
#include "apps/cli/bench_train.h"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <memory>

#include "apps/bench/process.h"
#include "apps/cli/bench_runs.h"
#include "apps/profile/profile_table.h"
#include "apps/train/build.h"
#include "data/dataset.h"

namespace nibble::cli {
namespace {

constexpr const char* kOp = "bench";

std::int64_t length_of(const train::TrainConfig& c, std::int64_t vocab) {
  return c.data.sequence ? c.data.sequence : train::gpt2_of(c.model, vocab).context;
}

// Of a step.
struct Work {
  double tokens, flops_per_token;
};
Work work_of(const train::TrainConfig& c) {
  const std::int64_t vocab = read_dataset(c.data.path).vocab_size, length = length_of(c, vocab);
  return {static_cast<double>(c.trainer.batch * c.trainer.accumulation * length),
          train::build_model(c, vocab, kMeta)->flops_per_token(length)};
}

// NAME=COMMAND, which gets the model's and the batch's sizes as arguments.
bench::Contender peer(const BenchRuns& o, const std::string& text, const train::TrainConfig& c,
                      std::int64_t vocab) {
  const auto equals = text.find('=');
  NIBBLE_CHECK(equals != std::string::npos && equals > 0 && equals + 1 < text.size(), kOp,
               "--peer: got '{}', expected NAME=COMMAND", text);
  bench::Contender out{.name = text.substr(0, equals),
                       .command = bench::split_command(text.substr(equals + 1)),
                       .metrics = "",
                       .kernels = ""};
  NIBBLE_CHECK(!out.command.empty(), kOp, "--peer: got '{}', expected NAME=COMMAND", text);
  const Gpt2Config model = train::gpt2_of(c.model, vocab);
  const std::pair<const char*, std::int64_t> sizes[] = {{"--layers", model.layers},
                                                        {"--heads", model.heads},
                                                        {"--width", model.width},
                                                        {"--vocab", model.vocab},
                                                        {"--batch", c.trainer.batch},
                                                        {"--length", length_of(c, vocab)},
                                                        {"--accumulation", c.trainer.accumulation},
                                                        {"--steps", last_step(o, o.steps)}};
  for (const auto& [flag, value] : sizes) {
    out.command.emplace_back(flag);
    out.command.push_back(std::to_string(value));
  }
  return out;
}

void print_kernels(const bench::TrainRun& r, double tokens) {
  if (!r.kernels) return;
  fmt::print("\n{}: means of {} steps of {:.2f} ms; those before took {:.2f} ms untraced\n\n{}\n{}",
             r.name, r.kernels->steps, r.kernels->step_seconds * 1e3,
             tokens / r.tokens_per_second * 1e3, profile::class_table(*r.kernels),
             profile::kernel_table(*r.kernels, 40));
}

// After each run, so that whoever ends the whole has what was measured.
void tell_run(const bench::TrainRun& r) {
  if (!r.fault.empty()) return tell_fault(r);
  fmt::print(stderr, "{}: {:.0f} tokens/s, {} GiB\n", r.name, r.tokens_per_second, gib(r.process));
}

std::string row_of(const bench::TrainRun& r, double first, const Work& work,
                   const std::string& host) {
  const bool clock = r.gpu.clock_mhz > 0;
  return fmt::format(
      "| {} | {:.0f} | {} | {:.4g} | {} | {:.1f} | {} | {} | {} | {} | {:.0f} | {:.4f} |\n", r.name,
      r.tokens_per_second, first > 0 ? fmt::format("{:.3f}", r.tokens_per_second / first) : "-",
      work.flops_per_token * r.tokens_per_second * 1e-12, host, r.first_step_seconds,
      gib(r.tensors), gib(r.process), clock ? fmt::format("{:.0f}", r.gpu.clock_mhz) : "-",
      clock ? fmt::format("{:.0f}", r.gpu.watts) : "-", r.seconds, r.last_loss);
}

int run_train(const BenchRuns& o) {
  NIBBLE_CHECK(o.steps > bench::kWarmSteps, kOp,
               "--steps: got {}, expected more than the {} that don't count", o.steps,
               bench::kWarmSteps);
  NIBBLE_CHECK(o.least_seconds < o.seconds, kOp,
               "--least-seconds: got {}, expected less than --seconds {}, which ends a run",
               o.least_seconds, o.seconds);
  check_json(o);
  const Device device = o.machinery.apply();
  check_available(device);
  const std::vector<BenchVariant> all = variants(o);
  NIBBLE_CHECK(!all.empty(), kOp, "got no recipe, expected one");
  const train::TrainConfig first = read_variant(o, all.front());
  const std::int64_t vocab = read_dataset(first.data.path).vocab_size;
  const ScratchFolder scratch;
  bench::TrainOptions options{.device = device,
                              .contenders = {},
                              .rounds = o.rounds,
                              .seconds = o.seconds,
                              .least_seconds = o.least_seconds,
                              .steps = o.steps,
                              .folder = scratch.path(),
                              .each = tell_run};
  std::vector<Work> work;
  for (const BenchVariant& variant : all) {
    // A bad one is an error before anything runs.
    work.push_back(work_of(read_variant(o, variant)));
    options.contenders.push_back(
        own_run(o, variant, o.steps,
                scratch.path() / fmt::format("run{}-{{round}}", options.contenders.size())));
  }
  for (const std::string& text : o.peers) {
    work.push_back(work.front());
    options.contenders.push_back(peer(o, text, first, vocab));
  }
  fmt::print("{}; {} steps of {} x {}, {} round{}; medians of the steps after {}\n\n",
             processor_name(device), o.steps, first.trainer.batch * first.trainer.accumulation,
             length_of(first, vocab), o.rounds, o.rounds == 1 ? "" : "s in turn",
             bench::kWarmSteps);
  std::fflush(stdout);
  const std::vector<bench::TrainRun> rows = bench::bench_train(options);
  fmt::print(
      "| program | tokens/s | of the first | TFLOP/s | host, ms a step | first step after, s | "
      "tensors, GiB | "
      "process, GiB | SM MHz | W | over, s | loss at step {} "
      "|\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
      o.steps);
  nlohmann::json out = {{"device", processor_name(device)}, {"rows", nlohmann::json::array()}};
  bool faulty = false, waits = false;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const bench::TrainRun& r = rows[i];
    out["rows"].push_back(json_of(r));
    faulty |= !r.fault.empty();
    if (!r.fault.empty()) {
      fmt::print("| {} | failed | - | - | - | - | - | - | - | - | - | - |\n", r.name);
      continue;
    }
    const std::string host =
        host_text(r.host_seconds, work[i].tokens / r.tokens_per_second, device);
    waits |= host.starts_with('(');
    fmt::print("{}", row_of(r, rows.front().tokens_per_second, work[i], host));
  }
  if (waits) fmt::print("\n{}\n", kHostWaits);
  for (std::size_t i = 0; i < rows.size(); ++i) print_kernels(rows[i], work[i].tokens);
  return finish(o, out, faulty);
}

}  // namespace

std::string host_text(double host_seconds, double step_seconds, Device device) {
  if (host_seconds < 0) return "-";
  const bool waits = device.is_cuda() && host_seconds > step_seconds / 2;
  return waits ? fmt::format("({:.0f})", host_seconds * 1e3)
               : fmt::format("{:.2f}", host_seconds * 1e3);
}

void add_bench_train(CLI::App& bench, CommandLine& line) {
  auto o = std::make_shared<BenchRuns>();
  CLI::App* train = bench.add_subcommand(
      "train", "Training runs of a configuration under several recipes, and of other programs");
  CLI::App* memory = bench.add_subcommand(
      "memory", "What a configuration's training takes, beside what was planned");
  for (CLI::App* part : {train, memory}) {
    part->add_option("--config", o->configs,
                     "Files A,B,…: later ones win; also looked for in configs/");
    part->add_option("--set", o->overrides, "One value on top: trainer.batch=8; may be repeated");
    part->add_option("--recipe", o->recipes, "A recipe; may be repeated")->capture_default_str();
    part->add_option("--vary", o->vary,
                     "KEY=VALUE,VALUE,…: every recipe with each of the values; may be repeated");
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
  train
      ->add_option("--least-seconds", o->least_seconds,
                   "Go on for so long after the first step, for clock and power; the schedule is "
                   "then that of a long run")
      ->check(CLI::Range(0.0, 1e6));
  train
      ->add_option("--kernels", o->kernels,
                   "Time the kernels of so many steps more, by class and by name; they don't "
                   "count for the medians")
      ->check(CLI::Range(1, 1000));
  train->callback([o, &line] { line.action = [o] { return run_train(*o); }; });
  memory->callback([o, &line] { line.action = [o] { return run_bench_memory(*o); }; });
}

}  // namespace nibble::cli
