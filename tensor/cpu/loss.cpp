#include <cmath>
#include <limits>

#include "tensor/cpu/lanes.h"
#include "tensor/cpu/loops.h"
#include "tensor/kernels.h"

namespace nibble::cpu {
namespace {

void check_target(std::int32_t target, std::int64_t row) {
  NIBBLE_CHECK(target >= -1, "cross_entropy",
               "got target {} in row {}, expected a class, or -1 for an ignored row", target, row);
}

template <class T>
void update(Tensor& max, Tensor& sum, Tensor& target_logit, const Tensor& logits,
            const Tensor& targets, std::int64_t first) {
  using C = compute_t<T>;
  const std::int64_t n = logits.cols();
  const T* in = logits.data<T>();
  const std::int32_t* target = targets.data<std::int32_t>();
  C *const max_out = max.data<C>(), *const sum_out = sum.data<C>(),
           *const logit_out = target_logit.data<C>();
  parallel_for(logits.rows(), row_grain(n), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      check_target(target[r], r);
      const T* row = in + r * n;
      const C old = max_out[r];
      const C m = MaxFold{}(old, lane_max<C>(row, n));
      // While only −inf was seen, any finite reference gives the right sum, 0.
      const C reference = m == -std::numeric_limits<C>::infinity() ? C(0) : m;
      sum_out[r] =
          std::fma(sum_out[r], scalar::exp(old - reference), lane_exp_sum(row, n, reference));
      max_out[r] = m;
      const std::int64_t column = target[r] - first;
      if (target[r] >= 0 && column >= 0 && column < n) logit_out[r] = static_cast<C>(row[column]);
    }
  });
}

template <class T>
void backward(Tensor& dlogits, const Tensor& logits, const Tensor& targets, const Tensor& lse,
              const Tensor& scale, std::int64_t first) {
  using C = compute_t<T>;
  const std::int64_t n = logits.cols();
  const T* in = logits.data<T>();
  T* out = dlogits.data<T>();
  const std::int32_t* target = targets.data<std::int32_t>();
  const C* lse_in = lse.data<C>();
  const C factor = static_cast<C>(scale.item());
  parallel_for(logits.rows(), row_grain(n), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      check_target(target[r], r);
      T* to = out + r * n;
      if (target[r] < 0) {
        std::fill_n(to, n, T(C(0)));
        continue;
      }
      const std::int64_t column = target[r] - first;
      const bool here = column >= 0 && column < n;
      const C at_target =
          here ? static_cast<C>(in[r * n + column]) : C(0);  // `to` may overwrite it
      const C shift = lse_in[r];
      map_range(
          to, 0, n, [=](C v) { return scalar::exp(v - shift) * factor; }, in + r * n);
      if (here) to[column] = static_cast<T>((scalar::exp(at_target - shift) - C(1)) * factor);
    }
  });
}

}  // namespace

void cross_entropy_update(Tensor& max, Tensor& sum, Tensor& target_logit, const Tensor& logits,
                          const Tensor& targets, std::int64_t begin) {
  NIBBLE_FLOAT_SWITCH(logits.dtype(), "cross_entropy", T,
                      update<T>(max, sum, target_logit, logits, targets, begin));
}

void cross_entropy_backward(Tensor& dlogits, const Tensor& logits, const Tensor& targets,
                            const Tensor& lse, const Tensor& scale, std::int64_t begin) {
  NIBBLE_FLOAT_SWITCH(logits.dtype(), "cross_entropy", T,
                      backward<T>(dlogits, logits, targets, lse, scale, begin));
}

void check_targets(const Tensor& targets, std::int64_t classes) {
  const auto* values = targets.data<std::int32_t>();
  for (std::int64_t i = 0; i < targets.numel(); ++i)
    NIBBLE_CHECK(values[i] >= -1 && values[i] < classes, "cross_entropy",
                 "got target {} in row {}, expected 0 to {}, or -1 for an ignored row", values[i],
                 i, classes - 1);
}

}  // namespace nibble::cpu
