// nibble bench memory: what the Meta device counts beside what a run then takes.
#include <fmt/format.h>

#include "apps/cli/bench_runs.h"
#include "apps/cli/memory_plan.h"
#include "data/dataset.h"

namespace nibble::cli {
namespace {

std::string off(std::int64_t planned, std::int64_t measured) {
  if (measured <= 0) return "-";
  return fmt::format(
      "{:+.1f} %", 100.0 * static_cast<double>(planned - measured) / static_cast<double>(measured));
}

}  // namespace

int run_bench_memory(const BenchRuns& o) {
  check_json(o);
  const Device device = o.machinery.apply();
  check_available(device);
  const ScratchFolder scratch;
  bench::TrainOptions options{.device = device,
                              .contenders = {},
                              .rounds = 1,
                              .seconds = o.seconds,
                              .folder = scratch.path(),
                              .each = tell_fault};
  std::vector<MemoryPlan> planned;
  for (const BenchVariant& variant : variants(o)) {
    const train::TrainConfig config = read_variant(o, variant);
    options.contenders.push_back(
        own_run(o, variant, bench::kWarmSteps + 2,
                scratch.path() / fmt::format("run{}-{{round}}", planned.size())));
    planned.push_back(plan_memory(config, read_dataset(config.data.path).vocab_size, device));
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
    row["planned_bytes"] = planned[i].peak;
    if (device.is_cuda()) row["planned_held_bytes"] = planned[i].held;
    row["planned_process_bytes"] = process_memory(planned[i], device);
    out["rows"].push_back(std::move(row));
    faulty |= !r.fault.empty();
    if (!r.fault.empty()) {
      fmt::print("| {} | {} | failed | - | - | - | - |\n", r.name, gib(planned[i].peak));
      continue;
    }
    const std::int64_t process = process_memory(planned[i], device);
    fmt::print("| {} | {} | {} | {} | {} | {} | {} |\n", r.name, gib(planned[i].peak),
               gib(r.tensors), off(planned[i].peak, r.tensors),
               device.is_cuda() ? gib(process) : "-", gib(r.process),
               device.is_cuda() ? off(process, r.process) : "-");
  }
  return finish(o, out, faulty);
}

}  // namespace nibble::cli
