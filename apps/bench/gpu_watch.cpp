#include "apps/bench/gpu_watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "apps/bench/median.h"
#include "apps/bench/process.h"
#include "tensor/check.h"

#ifdef NIBBLE_CUDA_BACKEND
#include "tensor/cuda/context.h"
#endif

namespace nibble::bench {
namespace {

// nvidia-smi counts GPUs in another order than CUDA, and does not see CUDA_VISIBLE_DEVICES.
std::string bus_id([[maybe_unused]] int index) {
#ifdef NIBBLE_CUDA_BACKEND
  char id[64];
  if (cudaDeviceGetPCIBusId(id, sizeof(id), index) == cudaSuccess) return id;
#endif
  return std::to_string(index);
}

}  // namespace

GpuWatch::GpuWatch(Device device, std::filesystem::path file) : file_(std::move(file)) {
  if (!device.is_cuda()) return;
  try {
    process_ = std::make_unique<Process>(
        std::vector<std::string>{"nvidia-smi", "--id=" + bus_id(device.index),
                                 "--query-gpu=clocks.sm,power.draw,memory.used",
                                 "--format=csv,noheader,nounits", "--loop-ms=200"},
        file_, file_.string() + ".err");
    // It may take longer to start than a short run to end.
    std::error_code error;
    for (int i = 0; i < 100 && !process_->poll(); ++i) {
      if (std::filesystem::file_size(file_, error) > 0 && !error) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  } catch (const Error&) {
    // Without it the columns stay empty.
  }
}
GpuWatch::~GpuWatch() = default;

void GpuWatch::mark() {
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(file_, error);
  from_ = error ? 0 : size;
}

GpuState GpuWatch::stop() {
  GpuState state;
  if (!process_) return state;
  process_->kill();
  process_->wait();
  std::ifstream in(file_);
  std::vector<double> clocks, watts;
  std::string line;
  for (std::uintmax_t at = 0; std::getline(in, line); at += line.size() + 1) {
    double clock = 0, power = 0, mib = 0;
    if (std::sscanf(line.c_str(), "%lf, %lf, %lf", &clock, &power, &mib) != 3) continue;
    state.memory = std::max(state.memory, static_cast<std::int64_t>(mib * 1024 * 1024));
    ++state.samples;
    if (at < from_) continue;
    clocks.push_back(clock);
    watts.push_back(power);
  }
  state.clock_mhz = median(clocks);
  state.watts = median(watts);
  return state;
}

}  // namespace nibble::bench
