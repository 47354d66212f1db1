// The block in float64 on the GPU, from the same bf16 inputs and parameters.
#pragma once

#include "block.h"

namespace nibble::spike {

struct Reference {
  Reference(GemmLibrary& gemm, const BlockData& data);
  Buffer<double> y, dx;
  std::array<Buffer<double>, kLayers> dweight, dbias;
  std::array<Buffer<double>, 2> dgamma, dbeta;
};

struct NamedError {
  std::string name;
  ErrorNorm norm;
};
/// Every output of `block` against the reference.
std::vector<NamedError> compare(const Block& block, const Reference& reference);

}  // namespace nibble::spike
