// Whether a GPU can serve, decided from what the machine reports: every answer can be had, and
// tested, without one.
#pragma once

#include <string>

namespace nibble {

// The compute capability that this project's kernels are built for (sm_90a: Hopper).
inline constexpr int kGpuMajor = 9, kGpuMinor = 0;

struct GpuFacts {
  int index = 0;               // the GPU that was asked for
  int count = 0;               // GPUs that the CUDA runtime offers
  std::string runtime_says{};  // its reason when there are none
  std::string name{};          // of GPU `index`: "NVIDIA H200"
  int major = 0, minor = 0;    // its compute capability
};

// Empty when it can; else what was found, what is needed and what to do, as in an error's text.
std::string gpu_fault(const GpuFacts& facts);

}  // namespace nibble
