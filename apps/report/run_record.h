// A run as its folder tells it: configuration, curves, and how it stands. Nothing is written, and
// a run that is still being written can be read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "apps/config/json.h"

namespace nibble::report {

// One logged step; what is missing or not finite is NaN. `seconds` of training, from the logged
// speeds.
struct TrainRow {
  std::int64_t step = 0;
  double tokens = 0, seconds = 0, loss = 0, lr = 0, norm = 0, speed = 0, memory = 0;
};
struct ValidationRow {
  std::int64_t step = 0;
  double tokens = 0, seconds = 0, loss = 0, bits = 0;
  std::map<std::string, double> strata;
};
struct TelemetryRow {
  std::int64_t step = 0;
  double absmax = 0, clipped = 0, flushed = 0, sqnr = 0;
};
struct SampleRow {
  std::int64_t step = 0;
  std::string prompt, text;
  bool ended = false;  // by the end of the text
};

enum class Status { Finished, Running, Stopped, Failed, Empty };

struct RunRecord {
  std::string name;  // of the folder; made unique by read_runs
  std::filesystem::path path;
  Json config = Json::object();  // the last session's; empty: unknown
  std::string data_hash, plan_hash, commit, started, device;
  std::uint64_t seed = 0;
  std::int64_t steps = 0;  // planned
  Status status = Status::Empty;
  std::vector<TrainRow> train;
  std::vector<ValidationRow> validation;
  std::map<std::pair<std::string, std::string>, std::vector<TelemetryRow>> telemetry;
  std::vector<SampleRow> samples;     // in the order of the file
  std::vector<std::string> problems;  // damaged lines, left out

  std::int64_t last_step() const;
  double final_loss() const;        // the last validation's, else NaN
  double median_speed() const;      // tokens a second
  double peak_memory() const;       // bytes
  std::string status_text() const;  // "finished", "stopped at step 40 of 100"
};

// Reads the run in `path`; throws Error "report: …" where there is none.
RunRecord read_run(const std::filesystem::path& path);
// Runs in the order given; a folder that is no run but holds some stands for these. Names that
// collide get their parents' in front. Throws when no run is found.
std::vector<RunRecord> read_runs(const std::vector<std::string>& paths);

// "trainer.lr" → 0.0006, for every leaf.
std::vector<std::pair<std::string, std::string>> flatten(const Json& config);

}  // namespace nibble::report
