// One training step of a configuration, counted on the Meta device by the code that trains. What
// kernels and libraries take for themselves (cuBLAS: 64 MiB) is not in it.
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
  std::int64_t peak = 0;
  std::int64_t checkpoint = 0;  // size of the file
  std::int64_t weights = 0;     // number of parameters
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
    {"logits", "of a vocabulary chunk, and the loss"},
    {"workspace", "gradients of activations, scratch"},
    {"batch", "inputs and targets"},
};

// Throws Error("dry-run") while tensors on Meta are alive: their bytes would count.
MemoryPlan plan_memory(const train::TrainConfig& config, std::int64_t dataset_vocab);

}  // namespace nibble::cli
