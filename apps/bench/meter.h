// Medians of single runs on either device, with cold caches: before each run a large buffer is
// written, which on a GPU also keeps the queue busy while the host prepares the launches.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <vector>

#include "tensor/ops.h"

#ifdef NIBBLE_CUDA_BACKEND
#include "tensor/cuda/timing.h"
#endif

namespace nibble::bench {

struct Timing {
  double median = 0, least = 0;  // seconds
  int runs = 0;
};

class Meter {
 public:
  // `budget`: seconds after which a body is not repeated any more (3 runs at the least); `flush`:
  // the bytes written before each run, larger than any cache.
  Meter(Device device, int repeats, double budget, std::int64_t flush)
      : repeats_(repeats), budget_(budget) {
    flush_ = Tensor::empty({flush / 4}, DType::F32, device);
#ifdef NIBBLE_CUDA_BACKEND
    if (device.is_cuda()) events_.emplace();
#endif
  }

  // body(i) for i = 0, 1, …: the number of the run, by which it takes one of several buffers. The
  // first `warm` runs, in which memory is allocated for the first time, don't count.
  Timing measure(int warm, const std::function<void(int)>& body) {
    constexpr int kLeast = 3;
    std::vector<double> times;
    double spent = 0;
    for (int i = 0; i < warm + repeats_; ++i) {
      if (i >= warm + kLeast && spent > budget_) break;
      flush_.fill(i);
      const double seconds = once([&] { body(i); });
      spent += seconds;
      if (i >= warm) times.push_back(seconds);
    }
    std::ranges::sort(times);
    return {times[times.size() / 2], times.front(), static_cast<int>(times.size())};
  }

 private:
  double once(const std::function<void()>& body) {
#ifdef NIBBLE_CUDA_BACKEND
    if (events_) return cuda::once_ms(*events_, body) * 1e-3;
#endif
    const auto begin = std::chrono::steady_clock::now();
    body();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  int repeats_;
  double budget_;
  Tensor flush_;
#ifdef NIBBLE_CUDA_BACKEND
  std::optional<cuda::Events> events_;  // on a GPU
#endif
};

}  // namespace nibble::bench
