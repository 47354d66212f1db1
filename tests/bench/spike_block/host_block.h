// The block in float64 on the CPU by plain loops, for small sizes: it anchors the GPU's reference.
#pragma once

#include "block.h"

namespace nibble::spike {

struct HostBlock {
  explicit HostBlock(const BlockData& data);
  std::vector<double> y, dx;
  std::array<std::vector<double>, kLayers> dweight, dbias;
  std::array<std::vector<double>, 2> dgamma, dbeta;
};

}  // namespace nibble::spike
