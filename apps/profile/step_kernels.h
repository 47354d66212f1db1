// Traces the kernels of some steps of a training run.
#pragma once

#include <optional>

#include "apps/profile/kernel_profile.h"
#include "tensor/profile.h"

namespace nibble::profile {

class StepKernels {
 public:
  // Steps first … last of `range`, counted from 1. Throws Error("kernels") without a GPU or CUPTI.
  StepKernels(Range range, Device device);

  void begin(std::int64_t step);
  // After a step, whose arithmetic was `operations`: the profile, behind the last one of the range.
  std::optional<KernelProfile> end(std::int64_t step, const OperationCount& operations);

 private:
  Range range_;
  Device device_;
  KernelTrace trace_;
  bool tracing_ = false;
};

}  // namespace nibble::profile
