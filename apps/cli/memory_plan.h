// One training step of a configuration, counted on the Meta device by the code that trains.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "apps/train/train_config.h"

namespace nibble::cli {

struct MemoryPlan {
  // Bytes at the fullest moment by memory scope, in the order of kMemoryCategories; they add up to
  // the peak. Zeros are there, "other" only when something was outside every scope.
  std::vector<std::pair<std::string, std::int64_t>> categories;
  // The categories' parts by kind of module, largest first: "activations: mlp.fc1".
  std::vector<std::pair<std::string, std::int64_t>> modules;
  std::int64_t peak = 0;        // of tensors
  std::int64_t held = 0;        // what a GPU's allocator has for them (tensor/held_memory.h)
  std::int64_t checkpoint = 0;  // size of the file
  std::int64_t weights = 0;     // number of parameters
  bool float_products = false;  // on a GPU some are cuBLASLt's, which takes memory of its own
  std::int64_t of(std::string_view category) const;
};

struct MemoryCategory {
  const char* name;  // of the memory scope
  const char* what;
};
inline constexpr MemoryCategory kMemoryCategories[] = {
    {"parameters", "as stored between steps"},
    {"gradients", "of the parameters"},
    {"moments", "the optimizer's states"},
    {"activations", "saved for the backward pass"},
    {"encodings", "weights in other forms, past ranges of delayed scales"},
    {"logits", "of a chunk of tokens, the loss, dW until backward"},
    {"workspace", "gradients of activations, scratch"},
    {"batch", "inputs and targets"},
};

// What a process on a GPU has in use beside what its allocator holds, measured on an H200
// (tests/bench/results/2026-11-30-memory-plan.md): the CUDA context with a step's kernels and
// graph; where cuBLASLt multiplies floats, its workspace (64 MiB) and its kernels.
inline constexpr std::int64_t kGpuContext = std::int64_t{330} << 20;
inline constexpr std::int64_t kGpuLibrary = std::int64_t{78} << 20;
// What a process needs for the plan's tensors; on a CPU they themselves.
std::int64_t process_memory(const MemoryPlan& plan, Device device);

// Throws Error("dry-run") while tensors on Meta are alive: their bytes would count.
// `device`: that the step is planned for.
MemoryPlan plan_memory(const train::TrainConfig& config, std::int64_t dataset_vocab, Device device);

}  // namespace nibble::cli
