#include <cmath>
#include <vector>

#include "tensor/cpu/lanes.h"
#include "tensor/cpu/loops.h"
#include "tensor/kernels.h"
#include "tensor/scalar_math.h"

namespace nibble::cpu {
namespace {

// Calls row(r) for each row of the last dimension.
template <class F>
void for_rows(const Tensor& x, F row) {
  parallel_for(x.rows(), row_grain(x.cols()), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) row(r);
  });
}

template <class C, class T>
C dot(const T* a, const T* b, std::int64_t n) {
  return lane_fold<C>(
      n, SumFold{}, [](C p, C q) { return p * q; }, a, b);
}

template <class T>
void softmax_rows(T* y, const T* x, std::int64_t rows, std::int64_t n) {
  using C = compute_t<T>;
  constexpr bool kInPlace = std::is_same_v<C, T>;
  parallel_for(rows, row_grain(n), [=](std::int64_t begin, std::int64_t end) {
    // bf16 keeps its exponentials in f32 until they are divided.
    std::vector<C> scratch(kInPlace ? 0 : static_cast<std::size_t>(n));
    for (std::int64_t r = begin; r < end; ++r) {
      T* to = y + r * n;
      const T* from = x + r * n;
      C* e = scratch.data();
      if constexpr (kInPlace) e = to;
      const C m = lane_max<C>(from, n);
      map_range(
          e, 0, n, [m](C v) { return scalar::exp(v - m); }, from);
      const C inverse = C(1) / lane_sum<C>(e, n);
      map_range(
          to, 0, n, [inverse](C v) { return v * inverse; }, e);
    }
  });
}

}  // namespace

// A row of −inf only gives NaN, as 0 / 0 does.
void softmax(Tensor& y, const Tensor& x) {
  NIBBLE_FLOAT_SWITCH(y.dtype(), "softmax", T,
                      softmax_rows(y.data<T>(), x.data<T>(), x.rows(), x.cols()));
}

void softmax_backward(Tensor& dx, const Tensor& dy, const Tensor& y) {
  const std::int64_t n = y.cols();
  NIBBLE_FLOAT_SWITCH(dx.dtype(), "softmax_backward", T, {
    using C = compute_t<T>;
    T* out = dx.data<T>();
    const T* grad = dy.data<T>();
    const T* p = y.data<T>();
    for_rows(y, [=](std::int64_t r) {
      const C mean = dot<C>(grad + r * n, p + r * n, n);
      map_range(
          out + r * n, 0, n, [mean](C d, C v) { return v * (d - mean); }, grad + r * n, p + r * n);
    });
  });
}

void log_softmax(Tensor& y, const Tensor& x) {
  const std::int64_t n = x.cols();
  NIBBLE_FLOAT_SWITCH(y.dtype(), "log_softmax", T, {
    using C = compute_t<T>;
    T* out = y.data<T>();
    const T* in = x.data<T>();
    for_rows(x, [=](std::int64_t r) {
      const T* from = in + r * n;
      const C m = lane_max<C>(from, n);
      const C log_sum = std::log(lane_exp_sum(from, n, m));
      map_range(
          out + r * n, 0, n, [m, log_sum](C v) { return (v - m) - log_sum; }, from);
    });
  });
}

void log_softmax_backward(Tensor& dx, const Tensor& dy, const Tensor& y) {
  const std::int64_t n = y.cols();
  NIBBLE_FLOAT_SWITCH(dx.dtype(), "log_softmax_backward", T, {
    using C = compute_t<T>;
    T* out = dx.data<T>();
    const T* grad = dy.data<T>();
    const T* logp = y.data<T>();
    for_rows(y, [=](std::int64_t r) {
      const C total = lane_sum<C>(grad + r * n, n);
      map_range(
          out + r * n, 0, n, [total](C d, C v) { return std::fma(-scalar::exp(v), total, d); },
          grad + r * n, logp + r * n);
    });
  });
}

}  // namespace nibble::cpu
