// Helpers of the tensor tests: random inputs, comparison with double-precision references, and runs
// at several thread counts.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "tensor/ops.h"
#include "tensor/thread_pool.h"

namespace nibble::testing {

inline const std::vector<DType> kFloats{DType::F64, DType::F32, DType::BF16};

inline Tensor random(const Shape& shape, DType dtype, double low = -3, double high = 3,
                     std::uint32_t site = 1) {
  return Tensor::uniform(shape, low, high, RngKey{7, site}, dtype);
}

// What one rounding of the dtype costs, with room for a few f32 operations before it.
inline double tolerance(DType dtype) {
  return dtype == DType::F64 ? 1e-13 : dtype == DType::F32 ? 2e-6 : 1.0 / 200;
}

// |actual − expected| ≤ tol · (|expected| + scale) everywhere; infinities and NaN must match.
inline void check_close(const Tensor& actual, const std::vector<double>& expected, double tol,
                        double scale = 0.05) {
  const std::vector<double> got = actual.to_vector<double>();
  REQUIRE(got.size() == expected.size());
  std::string wrong;
  for (std::size_t i = 0; i < got.size() && wrong.empty(); ++i) {
    const double g = got[i], e = expected[i];
    const bool same = std::isnan(e)   ? std::isnan(g)
                      : std::isinf(e) ? g == e
                                      : std::fabs(g - e) <= tol * (std::fabs(e) + scale);
    if (!same) wrong = fmt::format("{} element {}: got {}, expected {}", describe(actual), i, g, e);
  }
  CHECK_MESSAGE(wrong.empty(), wrong);
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.raw(), b.raw(), static_cast<std::size_t>(a.bytes())) == 0;
}

// Restores the number of threads at the end of a test.
struct ThreadsGuard {
  int before = num_threads();
  ~ThreadsGuard() { set_num_threads(before); }
};

// f() gives a tensor; its bits must not depend on the number of threads.
template <class F>
void check_same_at_any_thread_count(const std::string& name, F&& f) {
  const ThreadsGuard guard;
  set_num_threads(1);
  const Tensor one = f();
  for (const int threads : {2, 4}) {
    set_num_threads(threads);
    CHECK_MESSAGE(same_bits(one, f()), name, " differs at ", threads, " threads");
  }
}

// The message of the Error that f throws, "" when it throws none.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace nibble::testing
