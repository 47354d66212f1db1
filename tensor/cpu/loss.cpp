#include <cmath>
#include <limits>

#include "tensor/cpu/lanes.h"
#include "tensor/cpu/loops.h"
#include "tensor/kernels.h"

namespace nibble::cpu {
namespace {

void check_target(std::int32_t target, std::int64_t row, std::int64_t classes) {
  NIBBLE_CHECK(target >= -1 && target < classes, "cross_entropy",
               "got target {} in row {}, expected 0 to {}, or -1 for an ignored row", target, row,
               classes - 1);
}

template <class T>
void forward(Tensor& losses, Tensor& lse, const Tensor& logits, const Tensor& targets) {
  using C = compute_t<T>;
  const std::int64_t n = logits.cols();
  const T* in = logits.data<T>();
  const std::int32_t* target = targets.data<std::int32_t>();
  C *const loss_out = losses.data<C>(), *const lse_out = lse.data<C>();
  parallel_for(logits.rows(), row_grain(n), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      check_target(target[r], r, n);
      const T* row = in + r * n;
      const C m = lane_max<C>(row, n);
      // Where all are −inf, any finite reference gives the right sum, 0.
      const C reference = m == -std::numeric_limits<C>::infinity() ? C(0) : m;
      lse_out[r] = m + std::log(lane_exp_sum(row, n, reference));
      loss_out[r] = target[r] < 0 ? C(0) : lse_out[r] - static_cast<C>(row[target[r]]);
    }
  });
}

template <class T>
void backward(Tensor& dlogits, const Tensor& logits, const Tensor& targets, const Tensor& lse,
              const Tensor& scale) {
  using C = compute_t<T>;
  const std::int64_t n = logits.cols();
  const T* in = logits.data<T>();
  T* out = dlogits.data<T>();
  const std::int32_t* target = targets.data<std::int32_t>();
  const C* lse_in = lse.data<C>();
  const C factor = *scale.data<C>();
  parallel_for(logits.rows(), row_grain(n), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      check_target(target[r], r, n);
      T* to = out + r * n;
      if (target[r] < 0) {
        std::fill_n(to, n, T(C(0)));
        continue;
      }
      const C at_target = static_cast<C>(in[r * n + target[r]]);  // `to` may overwrite it
      const C shift = lse_in[r];
      map_range(
          to, 0, n, [=](C v) { return scalar::exp(v - shift) * factor; }, in + r * n);
      to[target[r]] = static_cast<T>((scalar::exp(at_target - shift) - C(1)) * factor);
    }
  });
}

}  // namespace

void cross_entropy(Tensor& losses, Tensor& lse, const Tensor& logits, const Tensor& targets) {
  NIBBLE_FLOAT_SWITCH(logits.dtype(), "cross_entropy", T, forward<T>(losses, lse, logits, targets));
}

void cross_entropy_backward(Tensor& dlogits, const Tensor& logits, const Tensor& targets,
                            const Tensor& lse, const Tensor& scale) {
  NIBBLE_FLOAT_SWITCH(logits.dtype(), "cross_entropy", T,
                      backward<T>(dlogits, logits, targets, lse, scale));
}

void cross_entropy_gradient(Tensor& losses, Tensor& logits, const Tensor& targets,
                            const Tensor& scale) {
  Tensor lse = Tensor::empty(losses.shape(), losses.dtype());
  cross_entropy(losses, lse, logits, targets);
  cross_entropy_backward(logits, logits, targets, lse, scale);
}

void check_targets(const Tensor& targets, std::int64_t classes) {
  const auto* values = targets.data<std::int32_t>();
  for (std::int64_t i = 0; i < targets.numel(); ++i) check_target(values[i], i, classes);
}

}  // namespace nibble::cpu
