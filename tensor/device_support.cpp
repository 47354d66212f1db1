#include "tensor/device_support.h"

#include <tuple>

#include "tensor/check.h"

namespace nibble {

std::string gpu_fault(const GpuFacts& f) {
  if (f.count <= 0)
    return fmt::format(
        "no usable GPU: got cuda:{}, and CUDA says '{}', expected an NVIDIA GPU of compute "
        "capability {}.{} and its driver; use --device cpu",
        f.index, f.runtime_says, kGpuMajor, kGpuMinor);
  if (f.index < 0 || f.index >= f.count)
    return fmt::format(
        "no such GPU: got cuda:{}, expected {}; use one of these or --device cpu", f.index,
        f.count == 1 ? "cuda:0, the only one" : fmt::format("cuda:0 … cuda:{}", f.count - 1));
  const auto found = std::tuple(f.major, f.minor), wanted = std::tuple(kGpuMajor, kGpuMinor);
  if (found == wanted) return "";
  return fmt::format(
      "the GPU is too {}: got cuda:{} ({}, compute capability {}.{}), expected capability {}.{}, "
      "which the kernels of this build are for; use --device cpu",
      found < wanted ? "old" : "new for this build", f.index, f.name, f.major, f.minor, kGpuMajor,
      kGpuMinor);
}

}  // namespace nibble
