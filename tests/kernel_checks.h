// What the kernel tests share: seeded inputs, differences from f64 references, thread independence.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "tensor/tensor.h"
#include "tensor/thread_pool.h"

namespace nibble::testing {

inline std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// Values in (-1, 1) from a congruential generator, so that these tests need no other kernel.
inline Tensor random(const Shape& shape, std::uint64_t seed, DType dtype = DType::F32) {
  std::vector<double> values(at(shape.numel()));
  std::uint64_t state = seed * 0x9E3779B97F4A7C15ull + 1;
  for (double& v : values) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    v = static_cast<double>(state >> 32) / 2147483648.0 - 1.0;
  }
  return Tensor::from(values, shape).to(dtype);
}

inline double max_difference(const Tensor& x, const std::vector<double>& expected) {
  const std::vector<double> values = x.to_vector<double>();
  REQUIRE(values.size() == expected.size());
  double worst = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (std::isnan(values[i]) != std::isnan(expected[i])) return INFINITY;
    if (values[i] != expected[i]) worst = std::max(worst, std::abs(values[i] - expected[i]));
  }
  return worst;
}
inline double max_difference(const Tensor& x, const Tensor& expected) {
  REQUIRE(x.shape() == expected.shape());
  return max_difference(x, expected.to_vector<double>());
}

inline std::vector<std::byte> bytes(const Tensor& x) {
  REQUIRE(x.is_contiguous());
  return {x.raw(), x.raw() + x.bytes()};
}

// `run` returns tensors; their bytes must be the same at 1, 2 and 4 threads.
template <class F>
void check_thread_independence(F&& run) {
  struct Restore {
    int threads = num_threads();
    ~Restore() { set_num_threads(threads); }
  } restore;
  std::vector<std::vector<std::byte>> first;
  for (const int threads : {1, 2, 4}) {
    set_num_threads(threads);
    const std::vector<Tensor> results = run();
    for (std::size_t i = 0; i < results.size(); ++i) {
      if (threads == 1)
        first.push_back(bytes(results[i]));
      else
        CHECK(bytes(results[i]) == first[i]);
    }
  }
}

}  // namespace nibble::testing
