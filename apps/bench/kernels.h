// Kernels that move more than they compute: what share of a copy's bandwidth they reach.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tensor/device.h"

namespace nibble::bench {

struct KernelRow {
  std::string name, shape;
  double bytes = 0;    // the least that inputs and outputs imply
  double seconds = 0;  // median
  double share = 0;    // bytes a second over those of the copy in the same run
  double error = 0;    // the largest, in units of what is allowed
  bool wrong() const { return !(error <= 1); }
};

struct KernelOptions {
  Device device = kCpu;
  std::int64_t tokens = 32768, width = 768, vocab = 50304;
  int repeats = 15;
  double budget = 5;   // seconds that one kernel's repeats may take
  std::string filter;  // only names that contain it; the copy always
  std::function<void(const KernelRow&)> each;
};
// A copy, norms, GELU, quantizers in both roundings and orientations, of integers and e4m3,
// decoding, transposing codes, the classifier's two passes and AdamW's update by state format.
// Activations are bf16.
std::vector<KernelRow> bench_kernels(const KernelOptions& options);

}  // namespace nibble::bench
