// Reads 4 bytes a target, once a step.
#include "tensor/cuda/common.cuh"
#include "tensor/kernels.h"

namespace nibble::cuda {
namespace {

__global__ void check_targets_kernel(const std::int32_t* targets, std::int64_t n,
                                     std::int64_t classes, Fault* fault) {
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < n;
       i += std::int64_t{gridDim.x} * blockDim.x)
    if (targets[i] < -1 || targets[i] >= classes)
      report_fault(fault, Fault::kTarget, i, targets[i], classes);
}

}  // namespace

void check_targets(const Tensor& targets, std::int64_t classes) {
  const std::int64_t n = targets.numel();
  launch(check_targets_kernel, grid_for(n, 256), 256, 0, targets.data<std::int32_t>(), n, classes,
         fault());
}

}  // namespace nibble::cuda
