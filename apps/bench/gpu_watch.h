// Clock, power and memory of a GPU while something runs on it, as nvidia-smi tells them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "tensor/device.h"

namespace nibble::bench {

struct GpuState {
  double clock_mhz = 0, watts = 0;  // medians; 0: unknown
  std::int64_t memory = 0;          // the most that was in use on the device, bytes
  int samples = 0;                  // 0: nothing is known
};

// Samples every 200 ms until it ends, the first one when it is made (5 s at most); does nothing on
// a CPU or where there is no nvidia-smi.
class GpuWatch {
 public:
  GpuWatch(Device device, std::filesystem::path file);
  ~GpuWatch();
  // Samples before this call count for memory only.
  void mark();
  GpuState stop();

 private:
  std::filesystem::path file_;
  std::unique_ptr<class Process> process_;
  std::uintmax_t from_ = 0;  // bytes of the file at mark()
};

}  // namespace nibble::bench
