#include "apps/bench/train.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "apps/bench/median.h"
#include "apps/bench/process.h"
#include "apps/run/stop_request.h"
#include "tensor/check.h"
#include "tensor/storage.h"

namespace nibble::bench {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Rows that are whole, count a step and have a speed.
std::vector<nlohmann::json> rows_of(const std::filesystem::path& file) {
  std::vector<nlohmann::json> rows;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    nlohmann::json row = nlohmann::json::parse(line, nullptr, false);
    if (row.is_object() && row.contains("step") && row["step"].is_number_unsigned() &&
        row.contains("tokens_per_second") && row["tokens_per_second"].is_number() &&
        row["tokens_per_second"].get<double>() > 0)
      rows.push_back(std::move(row));
  }
  return rows;
}

std::int64_t memory_in_use(Device device) {
  if (!device.is_cuda()) return 0;
  const auto left = device_memory(device);
  return left ? left->total - left->free : 0;
}

std::int64_t steps_of(const std::vector<nlohmann::json>& rows) {
  return rows.empty() ? 0 : rows.back()["step"].get<std::int64_t>();
}

void read_rows(TrainRun& run, const std::vector<nlohmann::json>& rows, const Contender& c,
               std::int64_t steps) {
  std::vector<double> speeds, hosts;
  const profile::Steps traced(c.traced);
  for (const nlohmann::json& row : rows) {
    const auto step = row["step"].get<std::int64_t>();
    if (step == steps && row.contains("loss") && row["loss"].is_number())
      run.last_loss = row["loss"].get<double>();
    if (step <= kWarmSteps || traced.covers(step)) continue;
    speeds.push_back(row["tokens_per_second"].get<double>());
    if (row.contains("host_seconds") && row["host_seconds"].is_number())
      hosts.push_back(row["host_seconds"].get<double>());
  }
  run.steps = steps_of(rows);
  run.tokens_per_second = median(speeds);
  if (!hosts.empty()) run.host_seconds = median(hosts);
  if (rows.empty()) return;
  const auto last = [&](const char* key) {
    return rows.back().contains(key) && rows.back()[key].is_number()
               ? rows.back()[key].get<double>()
               : 0.0;
  };
  if (run.last_loss == 0) run.last_loss = last("loss");
  const auto bytes = [&](const char* key) {
    return static_cast<std::int64_t>(std::clamp(last(key), 0.0, 0x1p60));
  };
  run.tensors = bytes("memory_peak");
  run.held = bytes("memory_held");
}

Contender of_round(Contender c, int round) {
  const auto fill = [&](std::string& word) {
    constexpr std::string_view kMark = "{round}";
    if (const auto at = word.find(kMark); at != std::string::npos)
      word.replace(at, kMark.size(), std::to_string(round));
  };
  for (std::string& word : c.command) fill(word);
  fill(c.metrics);
  fill(c.kernels);
  return c;
}

TrainRun run_once(const TrainOptions& o, const Contender& c, const std::string& place,
                  const run::StopRequest& stop) {
  TrainRun run;
  run.name = c.name;
  const std::filesystem::path out = o.folder / (place + ".out"), err = o.folder / (place + ".err"),
                              metrics = c.metrics.empty() ? out : std::filesystem::path(c.metrics);
  const std::int64_t before = memory_in_use(o.device);
  GpuWatch watch(o.device, o.folder / (place + ".smi"));
  const Clock::time_point begin = Clock::now();
  std::optional<Process> process;
  try {
    process.emplace(c.command, out, err);
  } catch (const Error& e) {  // the others' rows are not lost by it
    run.fault = e.what();
    return run;
  }
  std::optional<int> code;
  const auto end = [&] {
    process->kill();
    code = process->wait();
  };
  bool enough = false;
  while (!(code = process->poll())) {
    NIBBLE_CHECK(!stop.requested(), "bench", "stopped by signal {}", stop.signal());
    std::this_thread::sleep_for(std::chrono::milliseconds(run.first_step_seconds > 0 ? 50 : 10));
    if (run.first_step_seconds == 0 && !rows_of(metrics).empty()) {
      run.first_step_seconds = since(begin);
      watch.mark();
    }
    enough = o.least_seconds > 0 && run.first_step_seconds > 0 &&
             since(begin) - run.first_step_seconds >= o.least_seconds &&
             steps_of(rows_of(metrics)) >= std::max(o.steps, c.traced.last);
    if (enough) {
      end();
      break;
    }
    if (since(begin) < o.seconds) continue;
    end();
    run.fault = fmt::format("ended after {:.0f} s: --seconds", o.seconds);
    break;
  }
  run.seconds = run.first_step_seconds > 0 ? since(begin) - run.first_step_seconds : 0;
  run.gpu = watch.stop();
  const std::vector<nlohmann::json> rows = rows_of(metrics);
  read_rows(run, rows, c, o.steps);
  if (run.first_step_seconds == 0 && !rows.empty()) run.first_step_seconds = since(begin);
  run.process = !o.device.is_cuda()    ? process->peak_host_memory()
                : run.gpu.samples == 0 ? 0
                                       : std::max<std::int64_t>(run.gpu.memory - before, 0);
  if (run.fault.empty() && !enough && *code != 0)
    run.fault = fmt::format("exit {}: {}", *code, tail_of(err));
  if (run.fault.empty() && run.steps <= kWarmSteps)
    run.fault = fmt::format("{} steps with a speed, expected more than {}", run.steps, kWarmSteps);
  if (run.fault.empty() && !c.kernels.empty()) run.kernels = profile::read_profile(c.kernels);
  return run;
}

TrainRun joined(const std::vector<TrainRun>& runs) {
  TrainRun all = runs.front();
  const auto middle = [&](auto TrainRun::*field) {
    std::vector<double> x;
    for (const TrainRun& r : runs) x.push_back(static_cast<double>(r.*field));
    return median(x);
  };
  all.tokens_per_second = middle(&TrainRun::tokens_per_second);
  all.host_seconds = middle(&TrainRun::host_seconds);
  all.first_step_seconds = middle(&TrainRun::first_step_seconds);
  std::vector<double> clocks, watts;
  for (const TrainRun& r : runs) {
    if (all.fault.empty()) all.fault = r.fault;
    all.tensors = std::max(all.tensors, r.tensors);
    all.held = std::max(all.held, r.held);
    all.process = std::max(all.process, r.process);
    if (r.gpu.clock_mhz == 0) continue;  // unknown
    clocks.push_back(r.gpu.clock_mhz);
    watts.push_back(r.gpu.watts);
  }
  all.gpu.clock_mhz = median(clocks);
  all.gpu.watts = median(watts);
  return all;
}

}  // namespace

std::vector<TrainRun> bench_train(const TrainOptions& options) {
  const run::StopRequest stop;
  std::vector<std::vector<TrainRun>> runs(options.contenders.size());
  for (int round = 0; round < options.rounds; ++round)
    for (std::size_t i = 0; i < options.contenders.size(); ++i) {
      runs[i].push_back(run_once(options, of_round(options.contenders[i], round),
                                 fmt::format("{}-{}", i, round), stop));
      if (options.each) options.each(runs[i].back());
    }
  std::vector<TrainRun> rows;
  for (const auto& of_one : runs) rows.push_back(joined(of_one));
  return rows;
}

}  // namespace nibble::bench
