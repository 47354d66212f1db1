#include "apps/compare/layer_error.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tensor/ops.h"

namespace nibble::compare {
namespace {

// The ratios, from the sums.
void settle(LayerError& e) {
  e.sqnr_db =
      e.noise > 0 ? 10 * std::log10(e.signal / e.noise) : std::numeric_limits<double>::infinity();
  if (e.signal > 0 && e.other > 0)
    e.cosine = std::clamp(e.product / (std::sqrt(e.signal) * std::sqrt(e.other)), -1.0, 1.0);
  else
    e.cosine = e.signal == e.other ? 1 : 0;
}

template <class A, class B>
LayerError measure(const A* a, const B* b, std::int64_t count) {
  LayerError e{.count = count};
  for (std::int64_t i = 0; i < count; ++i) {
    const auto x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    const bool x_finite = std::isfinite(x), y_finite = std::isfinite(y);
    e.not_finite_a += !x_finite;
    e.not_finite_b += !y_finite;
    if (!x_finite || !y_finite) continue;
    const double difference = x - y;
    e.signal += x * x;
    e.other += y * y;
    e.product += x * y;
    e.noise += difference * difference;
    e.max_abs_error = std::max(e.max_abs_error, std::fabs(difference));
  }
  settle(e);
  return e;
}

}  // namespace

void LayerError::add(const LayerError& more) {
  count += more.count;
  not_finite_a += more.not_finite_a;
  not_finite_b += more.not_finite_b;
  signal += more.signal;
  other += more.other;
  product += more.product;
  noise += more.noise;
  max_abs_error = std::max(max_abs_error, more.max_abs_error);
  settle(*this);
}

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
