// Lockstep tests: one body runs on the CPU and on the GPU, on identical inputs, and the results are
// compared: bit for bit (tier A) or within a stated bound. Without a GPU they count as skipped.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "tensor/cuda/context.h"
#include "tensor/ops.h"
#include "tests/in_sample.h"

#define GPU_TEST(name) TEST_CASE(name* doctest::skip(::nibble::cuda::device_count() == 0))

namespace nibble::testing {

inline const Device kGpu = cuda_device(0);

// Uniform numbers, drawn on the CPU.
inline Tensor uniform(const Shape& shape, DType dtype = DType::F32, double low = -2,
                      double high = 2, std::uint32_t site = 1) {
  return Tensor::uniform(shape, low, high, RngKey{11, site}, dtype);
}

inline std::vector<Tensor> on_gpu(const std::vector<Tensor>& x) {
  std::vector<Tensor> y;
  for (const Tensor& t : x) y.push_back(t.defined() ? t.to(kGpu) : Tensor());
  return y;
}

// The first byte that differs, as "f32[8, 4] element 3 (byte 12): …"; "" when all bits agree.
inline std::string bit_difference(const Tensor& cpu, const Tensor& gpu) {
  const Tensor back = gpu.to(kCpu);
  if (back.shape() != cpu.shape() || back.dtype() != cpu.dtype())
    return fmt::format("got {}, expected {}", describe(back), describe(cpu));
  REQUIRE(cpu.is_contiguous());
  const auto n = static_cast<std::size_t>(cpu.bytes());
  if (n == 0 || std::memcmp(cpu.raw(), back.raw(), n) == 0) return "";
  std::size_t differing = 0, first = n;
  for (std::size_t i = 0; i < n; ++i)
    if (cpu.raw()[i] != back.raw()[i] && (++differing, first == n)) first = i;
  const auto element =
      static_cast<std::int64_t>(first) / std::max<std::int64_t>(1, bytes_of(cpu.dtype(), 1));
  return fmt::format("{} differs in {} of {} bytes, first in element {}", describe(cpu), differing,
                     n, element);
}

inline void check_bits(const Tensor& cpu, const Tensor& gpu, const std::string& what = "") {
  const std::string wrong = bit_difference(cpu, gpu);
  CHECK_MESSAGE(wrong.empty(), what, ": ", wrong);
}

// NaNs agree as NaNs: which of their bits an operation keeps is the machine's choice.
inline void check_bits_or_nan(const Tensor& cpu, const Tensor& gpu) {
  const Tensor zero = Tensor::zeros({1}, cpu.dtype());
  const Tensor back = gpu.to(kCpu);
  const auto settle = [&](const Tensor& x) { return ops::where(ops::equal(x, x), x, zero); };
  check_bits(settle(cpu), settle(back));
  check_bits(ops::equal(cpu, cpu), ops::equal(back, back));
}

// |gpu − cpu| ≤ tol · (|cpu| + scale) everywhere; infinities and NaN must match.
inline void check_near(const Tensor& cpu, const Tensor& gpu, double tol, double scale = 0.05,
                       const std::string& what = "") {
  const std::vector<double> e = cpu.to_vector<double>(), g = gpu.to(kCpu).to_vector<double>();
  REQUIRE(e.size() == g.size());
  std::string wrong;
  double worst = 0;
  for (std::size_t i = 0; i < e.size(); ++i) {
    const bool same = std::isnan(e[i]) ? std::isnan(g[i])
                      : std::isinf(e[i])
                          ? g[i] == e[i]
                          : std::fabs(g[i] - e[i]) <= tol * (std::fabs(e[i]) + scale);
    if (!same && (wrong.empty() || std::fabs(g[i] - e[i]) > worst)) {
      worst = std::fabs(g[i] - e[i]);
      wrong = fmt::format("{} element {}: got {}, expected {}", describe(cpu), i, g[i], e[i]);
    }
  }
  CHECK_MESSAGE(wrong.empty(), what, ": ", wrong);
}

// f(inputs) -> outputs, on the CPU and on the GPU; `compare(cpu, gpu)` for every pair of outputs.
template <class F, class Compare>
void in_lockstep(const std::vector<Tensor>& inputs, F&& f, Compare&& compare) {
  const std::vector<Tensor> cpu = f(inputs);
  const std::uint64_t copies_before = cuda::copies_to_host();
  const std::vector<Tensor> device_inputs = on_gpu(inputs);
  const std::vector<Tensor> gpu = f(device_inputs);
  CHECK_MESSAGE(cuda::copies_to_host() == copies_before, "an op copied to the host");
  REQUIRE(cpu.size() == gpu.size());
  for (std::size_t i = 0; i < cpu.size(); ++i)
    if (cpu[i].defined()) compare(cpu[i], gpu[i]);
}

}  // namespace nibble::testing
