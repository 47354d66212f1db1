// Texts that a run draws while it trains: OUT/samples.jsonl, a line each.
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <utility>

#include "apps/run/metrics.h"
#include "apps/train/generate.h"

namespace nibble::train {

inline constexpr const char* kSamplesFile = "samples.jsonl";

// Rows {"step", "prompt", "text", "tokens", "ended"}, whole when write() returns. A prompt has one
// row a step, however often a run is killed and resumed.
class SampleLog {
 public:
  // Appends to a file that was cut back to `step`, of the checkpoint that the run goes on from.
  SampleLog(const std::filesystem::path& file, std::int64_t step);
  bool has(std::int64_t step, const std::string& prompt) const {
    return written_.contains({step, prompt});
  }
  void write(std::int64_t step, const std::string& prompt, const Generated& sample);

 private:
  std::set<std::pair<std::int64_t, std::string>> written_;  // at `step` and since
  run::MetricsWriter rows_;
};

}  // namespace nibble::train
