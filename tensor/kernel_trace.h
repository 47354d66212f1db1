// What ran on a GPU and when, from CUPTI's activity records: kernels, those of replayed CUDA graphs
// one by one too, copies and fills. CUPTI is looked for when a trace is made: without it, or
// without a CUDA build, everything else works.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensor/device.h"

namespace nibble {

struct KernelRun {
  std::string name;                 // demangled; "copy host to device", "fill"
  std::int64_t begin = 0, end = 0;  // ns
};

// One at a time in a process.
class KernelTrace {
 public:
  // Throws Error("kernels") when there is nothing to trace with. Make it before a graph is
  // recorded: CUPTI must know the graph's kernels.
  explicit KernelTrace(Device device);
  ~KernelTrace();
  KernelTrace(const KernelTrace&) = delete;
  KernelTrace& operator=(const KernelTrace&) = delete;

  void start();  // what is queued from here on; waits for what was queued before
  // All since start(), by their begin; waits for the device. Throws Error("kernels") when some
  // could not be recorded.
  std::vector<KernelRun> stop();

 private:
  Device device_;
};

}  // namespace nibble
