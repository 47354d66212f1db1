#include <cmath>

#include "tensor/activation_sums.h"
#include "tensor/cpu/loops.h"
#include "tensor/kernels.h"
#include "tensor/scalar_math.h"

namespace nibble::cpu {
namespace {

template <class F>
void unary(const char* op, Tensor& y, const Tensor& x, F f) {
  NIBBLE_FLOAT_SWITCH(y.dtype(), op, T, map(y.data<T>(), y.numel(), f, x.data<T>()));
}
// f(dy, x).
template <class F>
void unary_backward(const char* op, Tensor& dx, const Tensor& dy, const Tensor& x, F f) {
  NIBBLE_FLOAT_SWITCH(dx.dtype(), op, T,
                      map(dx.data<T>(), dx.numel(), f, dy.data<T>(), x.data<T>()));
}

}  // namespace

void abs(Tensor& y, const Tensor& x) {
  unary("abs", y, x, [](auto v) { return std::fabs(v); });
}
void sign(Tensor& y, const Tensor& x) {
  unary("sign", y, x, [](auto v) {
    using C = decltype(v);
    return v > C(0) ? C(1) : v < C(0) ? C(-1) : v;  // zeros and NaN stay
  });
}
void exp(Tensor& y, const Tensor& x) {
  unary("exp", y, x, [](auto v) { return scalar::exp(v); });
}
void log(Tensor& y, const Tensor& x) {
  unary("log", y, x, [](auto v) { return std::log(v); });
}
void sqrt(Tensor& y, const Tensor& x) {
  unary("sqrt", y, x, [](auto v) { return std::sqrt(v); });
}
void rsqrt(Tensor& y, const Tensor& x) {
  unary("rsqrt", y, x, [](auto v) { return decltype(v)(1) / std::sqrt(v); });
}
void sin(Tensor& y, const Tensor& x) {
  unary("sin", y, x, [](auto v) { return std::sin(v); });
}
void cos(Tensor& y, const Tensor& x) {
  unary("cos", y, x, [](auto v) { return std::cos(v); });
}
void tanh(Tensor& y, const Tensor& x) {
  unary("tanh", y, x, [](auto v) { return scalar::tanh(v); });
}
void sigmoid(Tensor& y, const Tensor& x) {
  unary("sigmoid", y, x, [](auto v) { return scalar::sigmoid(v); });
}
void erf(Tensor& y, const Tensor& x) {
  unary("erf", y, x, [](auto v) { return scalar::erf(v); });
}
void relu(Tensor& y, const Tensor& x) {
  unary("relu", y, x, [](auto v) { return scalar::at_least(v, decltype(v)(0)); });
}
void clamp(Tensor& y, const Tensor& x, double low, double high) {
  unary("clamp", y, x, [low, high](auto v) {
    using C = decltype(v);
    return scalar::at_most(scalar::at_least(v, static_cast<C>(low)), static_cast<C>(high));
  });
}
void pow(Tensor& y, const Tensor& x, double exponent) {
  unary("pow", y, x,
        [exponent](auto v) { return std::pow(v, static_cast<decltype(v)>(exponent)); });
}

void silu(Tensor& y, const Tensor& x) {
  unary("silu", y, x, [](auto v) { return scalar::silu(v); });
}
void silu_backward(Tensor& dx, const Tensor& dy, const Tensor& x) {
  unary_backward("silu_backward", dx, dy, x,
                 [](auto d, auto v) { return scalar::silu_backward(d, v); });
}
void gelu_tanh(Tensor& y, const Tensor& x) {
  unary("gelu", y, x, [](auto v) { return scalar::gelu_tanh(v); });
}
void gelu_tanh_backward(Tensor& dx, const Tensor& dy, const Tensor& x) {
  unary_backward("gelu_backward", dx, dy, x,
                 [](auto d, auto v) { return scalar::gelu_tanh_backward(d, v); });
}
void gelu_erf(Tensor& y, const Tensor& x) {
  unary("gelu", y, x, [](auto v) { return scalar::gelu_erf(v); });
}
void gelu_erf_backward(Tensor& dx, const Tensor& dy, const Tensor& x) {
  unary_backward("gelu_backward", dx, dy, x,
                 [](auto d, auto v) { return scalar::gelu_erf_backward(d, v); });
}

void gelu_tanh_backward_sums(Tensor& dx, Tensor& sums, const Tensor& dy, const Tensor& x) {
  gelu_tanh_backward(dx, dy, x);
  column_sum(sums, dx, false);
}

}  // namespace nibble::cpu
