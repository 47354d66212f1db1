// nibble inspect CONFIG: parameters, products, memory, without a dataset or a GPU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/config/jsonnet.h"
#include "tensor/device.h"

namespace nibble::cli {

struct InspectConfig {
  config::Paths files;
  std::vector<std::string> overrides;
  Device device;            // need not be there
  std::int64_t memory = 0;  // bytes to fit into; 0: memory_budget decides
  bool all = false, json = false;
};
int inspect_config(const InspectConfig& options);

}  // namespace nibble::cli
