// What `nibble bench train` and `memory` share: the rows of a table as runs of this very program.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/bench/train.h"
#include "apps/cli/commands.h"
#include "apps/train/train_config.h"

namespace nibble::cli {

struct BenchRuns {
  std::vector<std::string> configs, overrides, recipes{"none", "int8"}, peers, vary;
  std::string json;
  std::int64_t steps = 200, kernels = 0;
  int rounds = 1;
  double seconds = 600, least_seconds = 0;
  Machinery machinery;
};

// A folder that is gone with its owner.
class ScratchFolder {
 public:
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// A recipe, and what else one row of a table sets.
struct BenchVariant {
  std::string recipe;
  std::vector<std::string> overrides;
  std::string name() const;
};
// Every recipe with every choice of the values of --vary KEY=A,B,….
std::vector<BenchVariant> variants(const BenchRuns& o);
train::TrainConfig read_variant(const BenchRuns& o, const BenchVariant& variant);

// The trainer.steps that a program is told: one that is ended from here must not end before.
std::int64_t last_step(const BenchRuns& o, std::int64_t steps);
// A run of this very program. A new folder for every run: a training run does not overwrite
// another.
bench::Contender own_run(const BenchRuns& o, const BenchVariant& variant, std::int64_t steps,
                         const std::filesystem::path& run);

std::string gib(std::int64_t bytes);
nlohmann::json json_of(const bench::TrainRun& r);
// Tells on stderr what went wrong.
void tell_fault(const bench::TrainRun& r);
// Before runs of minutes: that --json can be written after them.
void check_json(const BenchRuns& o);
// Writes --json. Throws Error("bench") when some run failed.
int finish(const BenchRuns& o, const nlohmann::json& out, bool faulty);

int run_bench_memory(const BenchRuns& o);  // bench_memory.cpp

}  // namespace nibble::cli
