// The time of training steps by kernel: what a trace of them holds, summed.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "apps/config/json.h"
#include "apps/profile/kernel_classes.h"
#include "tensor/kernel_trace.h"
#include "tensor/operation_count.h"

namespace nibble::profile {

// All of a step: means over the steps that were traced.
struct KernelTime {
  std::string name;  // short
  KernelClass of = KernelClass::Other;
  double launches = 0, seconds = 0;
};
struct KernelProfile {
  std::string processor;
  std::int64_t steps = 0;
  double step_seconds = 0;  // from the first kernel's begin to the last one's end
  double busy_seconds = 0;  // while at least one kernel ran
  OperationCount operations;
  std::int64_t memory = 0;          // the most that tensors took, bytes
  std::vector<KernelTime> kernels;  // by their time

  KernelTime total(KernelClass of) const;
};

KernelProfile summarize(const std::vector<KernelRun>& runs, std::int64_t steps);

Json to_json(const KernelProfile& profile);
// What to_json wrote. Throws Error("kernels") for anything else.
KernelProfile kernel_profile_of(const Json& json);
KernelProfile read_profile(const std::filesystem::path& file);

}  // namespace nibble::profile
