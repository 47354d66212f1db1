// Launches of kernels whose blocks wait for each other.
#pragma once

#include "tensor/cuda/context.h"

namespace nibble::cuda {

// As launch() (common.cuh), but all blocks run at once, whatever else does, or the launch fails.
template <class... Params, class... Args>
void launch_together(void (*kernel)(Params...), dim3 grid, dim3 block, std::size_t shared,
                     Args... args) {
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream();
  config.attrs = &together;
  config.numAttrs = 1;
  NIBBLE_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...));
}

}  // namespace nibble::cuda
