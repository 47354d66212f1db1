// nibble inspect CONFIG: parameters, products, memory, without a dataset or a GPU.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "apps/config/jsonnet.h"
#include "tensor/device.h"

namespace nibble::cli {

struct InspectConfig {
  config::Paths files;
  std::vector<std::string> overrides;
  Device device;  // need not be there
  std::int64_t memory = 0;
  bool all = false, json = false;
};
int inspect_config(const InspectConfig& options);

// "24GiB", "512 MiB", "8e9": a positive number with B, KiB, MiB, GiB, TiB, KB, MB, GB or TB. Throws
// Error("--memory").
std::int64_t parse_bytes(std::string_view text);

}  // namespace nibble::cli
