// Whole training programs side by side: Nibble under several recipes and other programs, each a
// process of its own, so that its memory is its own, in turns.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "apps/bench/gpu_watch.h"
#include "apps/profile/kernel_profile.h"
#include "tensor/profile.h"

namespace nibble::bench {

struct Contender {
  std::string name;
  // What to run. Rows of metrics are looked for in `metrics`, the file that the program writes, or,
  // where that is empty, on its standard output: JSON objects with "step" (from 1) and
  // "tokens_per_second", perhaps "loss", "memory_peak", "memory_held" and "host_seconds"; others
  // are passed over. "{round}" in any of these words becomes the round's number: a folder of its
  // own.
  std::vector<std::string> command;
  std::string metrics;
  profile::Range traced{};  // steps whose kernels are timed: they don't count for the medians
  std::string kernels;      // the file where their profile then lies; "": none
};

struct TrainRun {
  std::string name;
  std::int64_t steps = 0;         // of which the first kWarmSteps don't count for the medians
  double tokens_per_second = 0;   // median
  double host_seconds = -1;       // median, of a step; negative where it is not told
  double first_step_seconds = 0;  // from the start of the process to the first row
  double last_loss = 0;
  std::int64_t tensors = 0;  // the program's own count of its peak, bytes; 0: not told
  std::int64_t held = 0;     // what its allocator had for them at the most; 0: not told
  std::int64_t process = 0;  // its peak on the device (on a CPU: resident), bytes; 0: not known
  GpuState gpu;
  double seconds = 0;  // from the first row to the end
  std::optional<profile::KernelProfile> kernels;
  std::string fault;  // what went wrong; then the rest means nothing
};
inline constexpr std::int64_t kWarmSteps = 10;

struct TrainOptions {
  Device device = kCpu;
  std::vector<Contender> contenders;
  int rounds = 1;        // every contender once a round, in order
  double seconds = 600;  // a run that lasts longer is ended and is a fault
  // Not 0: a run is ended when it has had `steps` steps and lasted so long after its first row.
  double least_seconds = 0;
  std::int64_t steps = 0;                     // whose loss is told; 0: the last one's
  std::filesystem::path folder;               // for outputs; must exist
  std::function<void(const TrainRun&)> each;  // after every run
};

// One row a contender: medians over the rounds of speeds and times, the largest of the peaks, steps
// and last loss of the first round; a fault in any round is the row's.
std::vector<TrainRun> bench_train(const TrainOptions& options);

}  // namespace nibble::bench
