// Checkpoints: one safetensors file with everything a run needs to go on bit for bit, checksummed.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "nn/safetensors.h"

namespace nibble {

inline constexpr int kCheckpointVersion = 1;

// `state` is the run's JSON (configuration, position, counters), the metadata entry "state". The
// entry "nibble" holds the format version and an XXH64 of the state and of every tensor's name,
// dtype, shape and bytes.
void save_checkpoint(const std::filesystem::path& path, const nlohmann::json& state,
                     const NamedTensors& tensors);

// That XXH64 as 16 hex digits, of a file whose metadata entry "state" is `state`.
std::string checkpoint_checksum(std::string_view state, const SafetensorsFile& file);

class Checkpoint {
 public:
  // Verifies version and checksum; throws Error("checkpoint"): not a checkpoint, truncated,
  // corrupt, or written by a newer version.
  static Checkpoint open(const std::filesystem::path& path);
  ~Checkpoint();
  Checkpoint(Checkpoint&&) noexcept;

  const nlohmann::json& state() const;
  const SafetensorsFile& file() const { return *file_; }
  // Fills the tensors; every name must be there with its shape. `exact`: nothing else may be.
  void restore(NamedTensors tensors, bool exact) const;

 private:
  Checkpoint();
  std::unique_ptr<SafetensorsFile> file_;
  std::unique_ptr<nlohmann::json> state_;
};

}  // namespace nibble
