#include "apps/compare/layer_error.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tensor/ops.h"

namespace nibble::compare {
namespace {

template <class A, class B>
LayerError measure(const A* a, const B* b, std::int64_t count) {
  LayerError e{.count = count};
  double signal = 0, other = 0, product = 0, noise = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    const bool x_finite = std::isfinite(x), y_finite = std::isfinite(y);
    e.not_finite_a += !x_finite;
    e.not_finite_b += !y_finite;
    if (!x_finite || !y_finite) continue;
    const double difference = x - y;
    signal += x * x;
    other += y * y;
    product += x * y;
    noise += difference * difference;
    e.max_abs_error = std::max(e.max_abs_error, std::fabs(difference));
  }
  e.sqnr_db = noise > 0 ? 10 * std::log10(signal / noise) : std::numeric_limits<double>::infinity();
  if (signal > 0 && other > 0)
    e.cosine = std::clamp(product / (std::sqrt(signal) * std::sqrt(other)), -1.0, 1.0);
  else
    e.cosine = signal == other ? 1 : 0;
  return e;
}

}  // namespace

LayerError error_of(const Tensor& a, const Tensor& b) {
  NIBBLE_CHECK(a.shape() == b.shape(), "compare", "got tensors of shapes {} and {}, expected equal",
               a.shape(), b.shape());
  const Tensor x = ops::contiguous(a), y = ops::contiguous(b);
  LayerError error;
  NIBBLE_FLOAT_SWITCH(x.dtype(), "compare", X,
                      NIBBLE_FLOAT_SWITCH(y.dtype(), "compare", Y,
                                          error = measure(x.data<X>(), y.data<Y>(), x.numel())));
  return error;
}

}  // namespace nibble::compare
