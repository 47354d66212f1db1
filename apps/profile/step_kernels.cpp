#include "apps/profile/step_kernels.h"

#include "tensor/storage.h"

namespace nibble::profile {

StepKernels::StepKernels(Range range, Device device)
    : range_(range), device_(device), trace_(device) {}

void StepKernels::begin(std::int64_t step) {
  if (step != range_.first) return;
  trace_.start();
  tracing_ = true;
}

std::optional<KernelProfile> StepKernels::end(std::int64_t step, const OperationCount& operations) {
  if (!tracing_ || step != range_.last) return std::nullopt;
  tracing_ = false;
  KernelProfile profile = summarize(trace_.stop(), range_.last - range_.first + 1);
  profile.processor = processor_name(device_);
  profile.operations = operations;
  profile.memory = memory_stats(device_).peak;
  return profile;
}

}  // namespace nibble::profile
