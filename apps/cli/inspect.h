// nibble inspect: what a configuration means, and what a file of tensors holds.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "apps/train/train_config.h"
#include "nn/safetensors.h"

namespace nibble::cli {

// What the header of a safetensors file says, believed entry by entry: a damaged file is listed as
// far as it can be read. Whether it is intact is for Checkpoint and SafetensorsFile to say.
struct FileScan {
  struct Entry {
    std::string name, dtype;
    Shape shape;
    std::uint64_t begin = 0, end = 0;
    std::string fault;  // empty: its bytes lie in the file and fit dtype and shape
  };
  std::uint64_t size = 0;
  std::string header_fault;  // empty: the header is JSON
  Metadata metadata;
  std::vector<Entry> entries;  // in the header's order
};
FileScan scan_file(const std::filesystem::path& path);

// One pass in the order of the elements, in doubles: the same bits on every machine and run. NaN
// and infinities are counted and left out of the rest.
struct TensorStats {
  static constexpr int kBins = 16;
  std::int64_t count = 0, zeros = 0, not_finite = 0;
  double min = 0, max = 0, mean = 0, rms = 0, absmax = 0;  // of the finite ones; 0 without any
  std::int64_t bins[kBins] = {};                           // of equal width from min to max
};
TensorStats tensor_stats(DType dtype, std::span<const std::byte> bytes);
// One character a bin, as high as its count: " ▁▂▃▄▅▆▇█".
std::string sparkline(const TensorStats& stats);

// Prints; the result is whether the file is intact. Damage is thrown after the listing, as the one
// line that the program ends with.
int inspect_file(const std::filesystem::path& path, bool stats, bool json);

// Writes tensors of a file as .npy, one a pair of (name, file): a stored tensor as it lies, codes
// one a byte; what is stored as codes and scales decoded, under the name of the parameter
// ("wte.weight") or of its state ("wte.weight/m"). Throws Error("inspect") naming the nearest names
// of an unknown one.
int dump_tensors(const std::filesystem::path& path,
                 const std::vector<std::pair<std::string, std::string>>& dumps);

}  // namespace nibble::cli
