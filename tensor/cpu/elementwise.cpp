#include <cmath>

#include "tensor/cpu/loops.h"
#include "tensor/kernels.h"

namespace nibble::cpu {
namespace {

// One innermost row of a binary: stride 1 and stride 0 (a broadcast scalar) get loops of their own,
// because those vectorise.
template <class Y, class T, class F>
void binary_row(Y* y, const T* a, std::int64_t sa, const T* b, std::int64_t sb, std::int64_t n,
                F f) {
  using C = compute_t<T>;
  if (sa == 1 && sb == 1) {
    map_range(y, 0, n, f, a, b);
  } else if (sa == 1 && sb == 0) {
    map_range(
        y, 0, n, [f, v = static_cast<C>(*b)](C x) { return f(x, v); }, a);
  } else if (sa == 0 && sb == 1) {
    map_range(
        y, 0, n, [f, v = static_cast<C>(*a)](C x) { return f(v, x); }, b);
  } else {
    for (std::int64_t i = 0; i < n; ++i)
      y[i] = static_cast<Y>(f(static_cast<C>(a[i * sa]), static_cast<C>(b[i * sb])));
  }
}

template <class Y, class T, class F>
void binary(Y* y, const Tensor& a, const Tensor& b, F f) {
  const T* pa = a.data<T>();
  const T* pb = b.data<T>();
  const Strided<2> s = coalesce<2>(a.shape(), {a.strides(), b.strides()});
  const std::int64_t sa = s.stride[0][s.rank - 1], sb = s.stride[1][s.rank - 1];
  parallel_for(a.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    walk_rows(s, begin, end, [&](std::int64_t i, const auto& at, std::int64_t n) {
      binary_row(y + i, pa + at[0], sa, pb + at[1], sb, n, f);
    });
  });
}

template <class F>
void float_binary(const char* op, Tensor& y, const Tensor& a, const Tensor& b, F f) {
  NIBBLE_FLOAT_SWITCH(y.dtype(), op, T, (binary<T, T>(y.data<T>(), a, b, f)));
}
template <class F>
void compare(const char* op, Tensor& y, const Tensor& a, const Tensor& b, F f) {
  NIBBLE_FLOAT_SWITCH(a.dtype(), op, T, (binary<std::uint8_t, T>(y.data<std::uint8_t>(), a, b, f)));
}

}  // namespace

void add(Tensor& y, const Tensor& a, const Tensor& b) {
  float_binary("add", y, a, b, [](auto p, auto q) { return p + q; });
}
void sub(Tensor& y, const Tensor& a, const Tensor& b) {
  float_binary("sub", y, a, b, [](auto p, auto q) { return p - q; });
}
void mul(Tensor& y, const Tensor& a, const Tensor& b) {
  float_binary("mul", y, a, b, [](auto p, auto q) { return p * q; });
}
void div(Tensor& y, const Tensor& a, const Tensor& b) {
  float_binary("div", y, a, b, [](auto p, auto q) { return p / q; });
}
// A NaN in either operand comes out: comparisons with NaN are false, and p + q is NaN then.
void maximum(Tensor& y, const Tensor& a, const Tensor& b) {
  float_binary("maximum", y, a, b, [](auto p, auto q) { return p > q ? p : q >= p ? q : p + q; });
}
void minimum(Tensor& y, const Tensor& a, const Tensor& b) {
  float_binary("minimum", y, a, b, [](auto p, auto q) { return p < q ? p : q <= p ? q : p + q; });
}
void less(Tensor& y, const Tensor& a, const Tensor& b) {
  compare("less", y, a, b, [](auto p, auto q) { return p < q; });
}
void equal(Tensor& y, const Tensor& a, const Tensor& b) {
  compare("equal", y, a, b, [](auto p, auto q) { return p == q; });
}

void where(Tensor& y, const Tensor& mask, const Tensor& a, const Tensor& b) {
  const std::uint8_t* pm = mask.data<std::uint8_t>();
  const Strided<3> s = coalesce<3>(y.shape(), {mask.strides(), a.strides(), b.strides()});
  const std::int64_t sm = s.stride[0][s.rank - 1], sa = s.stride[1][s.rank - 1],
                     sb = s.stride[2][s.rank - 1];
  NIBBLE_FLOAT_SWITCH(y.dtype(), "where", T, {
    T* out = y.data<T>();
    const T* pa = a.data<T>();
    const T* pb = b.data<T>();
    parallel_for(y.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
      walk_rows(s, begin, end, [&](std::int64_t i, const auto& at, std::int64_t n) {
        for (std::int64_t j = 0; j < n; ++j)
          out[i + j] = pm[at[0] + j * sm] ? pa[at[1] + j * sa] : pb[at[2] + j * sb];
      });
    });
  });
}

void affine(Tensor& y, const Tensor& x, double scale, double shift) {
  NIBBLE_FLOAT_SWITCH(y.dtype(), "affine", T, {
    const auto m = static_cast<compute_t<T>>(scale), c = static_cast<compute_t<T>>(shift);
    map(
        y.data<T>(), y.numel(), [m, c](auto v) { return std::fma(m, v, c); }, x.data<T>());
  });
}

// Computed in y's type, so that a wide accumulator keeps what it can.
void axpy(Tensor& y, const Tensor& x, double alpha) {
  NIBBLE_FLOAT_SWITCH(y.dtype(), "axpy", T, {
    using C = compute_t<T>;
    const auto m = static_cast<C>(alpha);
    T* out = y.data<T>();
    const auto run = [m, out, n = y.numel()](const auto* in) {
      map(
          out, n, [m](C v, auto u) { return std::fma(m, static_cast<C>(u), v); }, out, in);
    };
    switch (x.dtype()) {
      case DType::F64: run(x.data<double>()); break;
      case DType::F32: run(x.data<float>()); break;
      default: run(x.data<bfloat16>());
    }
  });
}

void scale_by(Tensor& y, const Tensor& x, const Tensor& factor, bool accumulate) {
  NIBBLE_FLOAT_SWITCH(y.dtype(), "scale_by", T, {
    using C = compute_t<T>;
    const C m = *factor.data<C>();
    T* out = y.data<T>();
    if (accumulate)
      map(
          out, y.numel(), [m](C v, C u) { return std::fma(m, u, v); }, out, x.data<T>());
    else
      map(
          out, y.numel(), [m](C u) { return m * u; }, x.data<T>());
  });
}

}  // namespace nibble::cpu
