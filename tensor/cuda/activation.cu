// Unary maps and their backward forms over contiguous tensors (gelu_tanh's: gelu.cu): 8 bytes an
// element in f32, 4 in bf16 (12 and 6 backward) against up to some 40 operations, so memory is the
// roof. Formulas are scalar_math.h's, bit-equal to the CPU; log, sin, cos and pow are CUDA's f32
// functions, at most 2 (pow: 4) units of the last place from exact by NVIDIA's tables.
#include "tensor/cuda/elementwise.cuh"
#include "tensor/cuda/fast_math.cuh"
#include "tensor/kernels.h"
#include "tensor/scalar_math.h"

namespace nibble::cuda {
namespace {

template <class F>
void unary(const char* op, Tensor& y, const Tensor& x, F f) {
  NIBBLE_CUDA_FLOAT_SWITCH(y.dtype(), op, T, map(y.data<T>(), y.numel(), f, x.data<T>()));
}
// f(dy, x).
template <class F>
void unary_backward(const char* op, Tensor& dx, const Tensor& dy, const Tensor& x, F f) {
  NIBBLE_CUDA_FLOAT_SWITCH(dx.dtype(), op, T,
                           map(dx.data<T>(), dx.numel(), f, dy.data<T>(), x.data<T>()));
}

struct Clamp {
  float low, high;
  __device__ float operator()(float v) const {
    return scalar::at_most(scalar::at_least(v, low), high);
  }
};
struct Pow {
  float exponent;
  __device__ float operator()(float v) const { return std::pow(v, exponent); }
};

}  // namespace

// nvcc wants named functors: one a kernel, of `v`, or of `d` and `v`. _FAST: see fast_math.cuh.
#define NIBBLE_UNARY(name, op, ...)                                    \
  namespace {                                                          \
  struct name##_of {                                                   \
    __device__ float operator()(float v) const { return __VA_ARGS__; } \
  };                                                                   \
  }                                                                    \
  void name(Tensor& y, const Tensor& x) { unary(op, y, x, name##_of{}); }
#define NIBBLE_UNARY_FAST(name, op, bound)                                        \
  namespace {                                                                     \
  struct name##_of {                                                              \
    static constexpr float kFastBound = fast::bound;                              \
    __device__ float operator()(float v) const { return scalar::name(v); }        \
    __device__ static float fast(float v) { return nibble::cuda::fast::name(v); } \
  };                                                                              \
  }                                                                               \
  void name(Tensor& y, const Tensor& x) { unary(op, y, x, name##_of{}); }
#define NIBBLE_BACKWARD_FAST(name, op, bound)                                                 \
  namespace {                                                                                 \
  struct name##_of {                                                                          \
    static constexpr float kFastBound = fast::bound;                                          \
    __device__ float operator()(float d, float v) const { return scalar::name(d, v); }        \
    __device__ static float fast(float d, float v) { return nibble::cuda::fast::name(d, v); } \
  };                                                                                          \
  }                                                                                           \
  void name(Tensor& dx, const Tensor& dy, const Tensor& x) {                                  \
    unary_backward(op, dx, dy, x, name##_of{});                                               \
  }

NIBBLE_UNARY(abs, "abs", std::fabs(v))
NIBBLE_UNARY(sign, "sign", v > 0.0f ? 1.0f : v < 0.0f ? -1.0f : v)  // zeros and NaN stay
NIBBLE_UNARY(exp, "exp", scalar::exp(v))
NIBBLE_UNARY(log, "log", std::log(v))
NIBBLE_UNARY(sqrt, "sqrt", std::sqrt(v))
NIBBLE_UNARY(rsqrt, "rsqrt", 1.0f / std::sqrt(v))  // two roundings, unlike CUDA's rsqrtf
NIBBLE_UNARY(sin, "sin", std::sin(v))
NIBBLE_UNARY(cos, "cos", std::cos(v))
NIBBLE_UNARY(tanh, "tanh", scalar::tanh(v))
NIBBLE_UNARY_FAST(sigmoid, "sigmoid", kExpBound)
NIBBLE_UNARY(erf, "erf", scalar::erf(v))
NIBBLE_UNARY(relu, "relu", scalar::at_least(v, 0.0f))
NIBBLE_UNARY_FAST(silu, "silu", kExpBound)
NIBBLE_UNARY(gelu_erf, "gelu", scalar::gelu_erf(v))
NIBBLE_BACKWARD_FAST(silu_backward, "silu_backward", kExpBound)
namespace {
struct gelu_erf_backward_of {
  __device__ float operator()(float d, float v) const { return scalar::gelu_erf_backward(d, v); }
};
}  // namespace
void gelu_erf_backward(Tensor& dx, const Tensor& dy, const Tensor& x) {
  unary_backward("gelu_backward", dx, dy, x, gelu_erf_backward_of{});
}

#undef NIBBLE_UNARY
#undef NIBBLE_UNARY_FAST
#undef NIBBLE_BACKWARD_FAST

void clamp(Tensor& y, const Tensor& x, double low, double high) {
  unary("clamp", y, x, Clamp{static_cast<float>(low), static_cast<float>(high)});
}
void pow(Tensor& y, const Tensor& x, double exponent) {
  unary("pow", y, x, Pow{static_cast<float>(exponent)});
}

}  // namespace nibble::cuda
