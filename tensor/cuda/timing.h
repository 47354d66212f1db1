// Times of work on the GPU: medians of single runs, each after a 256 MiB write that empties L2.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "tensor/cuda/context.h"
#include "tensor/tensor.h"

namespace nibble::cuda {

struct Events {
  cudaEvent_t begin = nullptr, end = nullptr;
  Events() {
    NIBBLE_CUDA_CHECK(cudaEventCreate(&begin));
    NIBBLE_CUDA_CHECK(cudaEventCreate(&end));
  }
  ~Events() {
    (void)cudaEventDestroy(begin);
    (void)cudaEventDestroy(end);
  }
  Events(const Events&) = delete;
  Events& operator=(const Events&) = delete;
};

// Milliseconds of one run of `body` on the current device's stream, which is waited for.
inline double once_ms(const Events& e, const std::function<void()>& body) {
  NIBBLE_CUDA_CHECK(cudaEventRecord(e.begin, stream()));
  body();
  NIBBLE_CUDA_CHECK(cudaEventRecord(e.end, stream()));
  wait();
  float ms = 0;
  NIBBLE_CUDA_CHECK(cudaEventElapsedTime(&ms, e.begin, e.end));
  return ms;
}

// Milliseconds of `body` on the current device's stream; two runs before those that count.
inline double median_ms(int repeats, const std::function<void()>& body) {
  Tensor flush = Tensor::empty({64 << 20}, DType::F32, cuda_device(current()));
  const Events e;
  std::vector<double> times;
  for (int i = 0; i < repeats + 2; ++i) {
    flush.fill(i);
    const double ms = once_ms(e, body);
    if (i >= 2) times.push_back(ms);
  }
  std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
  return times[static_cast<std::size_t>(repeats / 2)];
}

}  // namespace nibble::cuda
