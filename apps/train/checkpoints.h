// The checkpoints of a run: OUT/checkpoints/step_00000100.safetensors, the last k kept.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "nn/checkpoint_file.h"

namespace nibble::train {

struct CheckpointPath {
  std::int64_t step;
  std::filesystem::path path;
};
std::filesystem::path checkpoint_path(const std::filesystem::path& folder, std::int64_t step);
// Ascending by step; files with other names are ignored.
std::vector<CheckpointPath> list_checkpoints(const std::filesystem::path& folder);
// Removes all but the newest `keep`, and what a killed writer left.
void prune_checkpoints(const std::filesystem::path& folder, std::int64_t keep);

// The newest intact checkpoint; damaged newer ones are told to `warn` and passed over. Throws
// Error("resume") when none is intact. A newer format version is an error, not damage.
Checkpoint open_newest(const std::filesystem::path& folder,
                       const std::function<void(const std::string&)>& warn);
// A checkpoint file, or the newest one of a run's folder or of its checkpoints folder.
Checkpoint open_any(const std::filesystem::path& path,
                    const std::function<void(const std::string&)>& warn);

}  // namespace nibble::train
