// The training run: data, model, optimizer, checkpoints, metrics. Everything a run's bits depend on
// is in its configuration; when it stops and where it logs is not.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "apps/train/train_config.h"
#include "tensor/device.h"
#include "tensor/profile.h"

namespace nibble::train {

// Whether steps after the first are replayed as one CUDA graph. The bits are the same either way.
enum class GraphUse : std::uint8_t { Auto /* on a GPU */, On, Off };

struct TrainOptions {
  TrainConfig config;
  std::filesystem::path output;  // the run's folder
  bool resume = false;           // go on from the newest intact checkpoint there
  std::filesystem::path init;    // a checkpoint (or run) whose weights to start from; "": none
  double max_minutes = 0;        // stop with a checkpoint after this long; 0: no limit
  Device device = kCpu;
  GraphUse graph = GraphUse::Auto;
  profile::Range profile{};          // steps that a profiler watches
  profile::Range kernels{};          // steps whose kernels are timed, as they run: kKernelsFile
  std::vector<std::string> command;  // argv, for run.json
  std::FILE* log = stderr;           // progress and messages
};

// In the run's folder: apps/profile/kernel_profile.h.
inline constexpr const char* kKernelsFile = "kernels.json";

enum class Outcome : std::uint8_t {
  Finished,
  TimeLimit,  // checkpoint written; --resume goes on
  Stopped,    // SIGTERM or SIGINT: likewise
};

// Errors: Error naming the cause; the run's folder then holds the last checkpoint that was written.
Outcome train(const TrainOptions& options);

// The configuration that a checkpoint was trained with.
TrainConfig config_of(const Json& checkpoint_state);

}  // namespace nibble::train
