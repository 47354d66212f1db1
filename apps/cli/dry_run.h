// What a run would take, before anything is allocated.
#pragma once

#include <cstdint>
#include <filesystem>

#include "apps/train/trainer.h"

namespace nibble::cli {

// Bytes of one training step, counted on the Meta device by the code that trains.
struct MemoryPlan {
  std::int64_t parameters = 0, gradients = 0, optimizer = 0;
  std::int64_t activations = 0;  // what lives beside those at the fullest moment, workspaces too
  std::int64_t peak = 0;
  std::int64_t checkpoint = 0;  // size of the file
  std::int64_t weights = 0;     // number of parameters
};
MemoryPlan plan_memory(const train::TrainConfig& config, std::int64_t dataset_vocab);

// Prints memory, disk and, with `timed`, the time of real steps on the device; creates no run.
// Throws Error("dry-run") when memory or disk is short, naming a change that would fit.
int dry_run(const train::TrainOptions& options, bool timed);

}  // namespace nibble::cli
