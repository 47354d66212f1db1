// What a configuration could be changed to where memory is short, by plan_memory's arithmetic. A
// limit is of a whole process (process_memory) on the device.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "apps/train/trainer.h"
#include "tensor/out_of_memory.h"

namespace nibble::cli {

// A GPU that is not there is taken for an H200: the only one that the kernels are measured on.
inline constexpr std::int64_t kAssumedGpuMemory = 141'000'000'000;

struct MemoryBudget {
  std::int64_t bytes = 0;
  std::string source;  // "given", "device" or "assumed"
  std::string text;    // for people
};
// `given` when it is not 0, else all memory of the device, else of the assumed one.
MemoryBudget memory_budget(Device device, std::int64_t given);

// The changes that bring the process to at most `limit` bytes, each alone: fewer sequences a
// micro-batch with more of them, recomputation as far as it must go, the recipe int8 or, of another
// recipe, 8-bit moments and weights of fewer bits; else the least of them together. "3.2 GiB with
// --set …; or …", or that nothing fits.
std::string what_would_fit(const train::TrainConfig& config, std::int64_t vocab, Device device,
                           std::int64_t limit);

// The largest trainer.batch whose process stays within `limit`, 0 when not even 1 does: as
// configured, then with each change that allows more.
struct LargestBatch {
  std::string with;
  std::int64_t batch;
};
std::vector<LargestBatch> largest_batches(const train::TrainConfig& config, std::int64_t vocab,
                                          Device device, std::int64_t limit);

// What a run's process may come to now: what is free, and what this process has already.
struct Room {
  std::int64_t free = 0, own = 0, total = 0;
  std::int64_t bytes() const { return free + own; }
};
std::optional<Room> room_on(Device device);  // nothing where it is not known

// Before a run begins: throws when its plan needs more than there is room for, with what would fit.
// On a CPU the plan lacks kernels' scratch; what it calls too large is.
void check_plan(const train::TrainOptions& options);
void check_plan(const train::TrainOptions& options, const Room& room);

// What a training run that met the end of its memory throws in its place: the same cause, what
// would fit, and whether --resume goes on. The run's tensors must be gone.
[[noreturn]] void fail_with_what_would_fit(const OutOfMemory& error,
                                           const train::TrainOptions& options);

// "24GiB", "512 MiB", "8e9": a positive number with B, KiB, MiB, GiB, TiB, KB, MB, GB or TB. Throws
// Error(what).
std::int64_t parse_bytes(std::string_view what, std::string_view text);

}  // namespace nibble::cli
