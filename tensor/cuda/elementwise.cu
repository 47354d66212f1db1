// Broadcasting binaries, where, affine and axpy. Each operand moves once (a broadcast one from
// cache): 12 bytes an element for an f32 sum of two tensors, 6 for bf16; one or two operations an
// element, so memory is the roof. Formulas are cpu/elementwise.cpp's, one rounding each.
#include "tensor/cuda/elementwise.cuh"
#include "tensor/kernels.h"

namespace nibble::cuda {
namespace {

struct Add {
  __device__ float operator()(float p, float q) const { return p + q; }
};
struct Sub {
  __device__ float operator()(float p, float q) const { return p - q; }
};
struct Mul {
  __device__ float operator()(float p, float q) const { return p * q; }
};
struct Div {
  __device__ float operator()(float p, float q) const { return p / q; }
};
// A NaN in either operand comes out: comparisons with NaN are false, and p + q is NaN then.
struct Maximum {
  __device__ float operator()(float p, float q) const { return p > q ? p : q >= p ? q : p + q; }
};
struct Minimum {
  __device__ float operator()(float p, float q) const { return p < q ? p : q <= p ? q : p + q; }
};
struct Less {
  __device__ bool operator()(float p, float q) const { return p < q; }
};
struct Equal {
  __device__ bool operator()(float p, float q) const { return p == q; }
};
// On raw bits: what is chosen is not changed, signalling NaNs included.
struct Where {
  template <class Bits>
  __device__ Bits operator()(std::uint8_t mask, Bits p, Bits q) const {
    return mask ? p : q;
  }
};
struct Affine {
  float scale, shift;
  __device__ float operator()(float x) const { return std::fma(scale, x, shift); }
};
// By a factor that lies on the device.
struct Scaled {
  const float* factor;
  __device__ float operator()(float x) const { return *factor * x; }
};
struct ScaledSum {
  const float* factor;
  __device__ float operator()(float y, float x) const { return std::fma(*factor, x, y); }
};
struct Axpy {
  float alpha;
  __device__ float operator()(float y, float x) const { return std::fma(alpha, x, y); }
};

// y is contiguous.
Shape dense_strides(const Shape& shape) {
  Shape strides = shape;
  std::int64_t step = 1;
  for (int d = shape.rank() - 1; d >= 0; --d) {
    strides[d] = step;
    step *= shape[d];
  }
  return strides;
}

template <class Y, class T, class F>
void binary(Y* y, const Tensor& a, const Tensor& b, F f) {
  if (a.numel() == 0) return;
  map_strided(y, coalesce<3>(a.shape(), {dense_strides(a.shape()), a.strides(), b.strides()}), f,
              a.data<T>(), b.data<T>());
}
template <class F>
void float_binary(const char* op, Tensor& y, const Tensor& a, const Tensor& b, F f) {
  NIBBLE_CUDA_FLOAT_SWITCH(y.dtype(), op, T, (binary<T, T>(y.data<T>(), a, b, f)));
}
template <class F>
void compare(const char* op, Tensor& y, const Tensor& a, const Tensor& b, F f) {
  NIBBLE_CUDA_FLOAT_SWITCH(a.dtype(), op, T,
                           (binary<std::uint8_t, T>(y.data<std::uint8_t>(), a, b, f)));
}

template <class Bits>
void where_bits(Tensor& y, const Tensor& mask, const Tensor& a, const Tensor& b) {
  map_strided(reinterpret_cast<Bits*>(y.raw()),
              coalesce<4>(y.shape(), {y.strides(), mask.strides(), a.strides(), b.strides()}),
              Where{}, mask.data<std::uint8_t>(), reinterpret_cast<const Bits*>(a.raw()),
              reinterpret_cast<const Bits*>(b.raw()));
}

}  // namespace

void add(Tensor& y, const Tensor& a, const Tensor& b) { float_binary("add", y, a, b, Add{}); }
void sub(Tensor& y, const Tensor& a, const Tensor& b) { float_binary("sub", y, a, b, Sub{}); }
void mul(Tensor& y, const Tensor& a, const Tensor& b) { float_binary("mul", y, a, b, Mul{}); }
void div(Tensor& y, const Tensor& a, const Tensor& b) { float_binary("div", y, a, b, Div{}); }
void maximum(Tensor& y, const Tensor& a, const Tensor& b) {
  float_binary("maximum", y, a, b, Maximum{});
}
void minimum(Tensor& y, const Tensor& a, const Tensor& b) {
  float_binary("minimum", y, a, b, Minimum{});
}
void less(Tensor& y, const Tensor& a, const Tensor& b) { compare("less", y, a, b, Less{}); }
void equal(Tensor& y, const Tensor& a, const Tensor& b) { compare("equal", y, a, b, Equal{}); }

void where(Tensor& y, const Tensor& mask, const Tensor& a, const Tensor& b) {
  if (y.numel() == 0) return;
  NIBBLE_CUDA_FLOAT_SWITCH(
      y.dtype(), "where", T,
      (where_bits<std::conditional_t<sizeof(T) == 2, std::uint16_t, std::uint32_t>>(y, mask, a,
                                                                                    b)));
}

void affine(Tensor& y, const Tensor& x, double scale, double shift) {
  const Affine f{static_cast<float>(scale), static_cast<float>(shift)};
  NIBBLE_CUDA_FLOAT_SWITCH(y.dtype(), "affine", T, map(y.data<T>(), y.numel(), f, x.data<T>()));
}

void axpy(Tensor& y, const Tensor& x, double alpha) {
  const Axpy f{static_cast<float>(alpha)};
  NIBBLE_CUDA_FLOAT_SWITCH(y.dtype(), "axpy", T, {
    T* out = y.data<T>();
    NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "axpy", U,
                             map(out, y.numel(), f, static_cast<const T*>(out), x.data<U>()));
  });
}

void scale_by(Tensor& y, const Tensor& x, const Tensor& factor, bool accumulate) {
  const auto* m = factor.data<float>();
  NIBBLE_CUDA_FLOAT_SWITCH(y.dtype(), "scale_by", T, {
    T* out = y.data<T>();
    if (accumulate)
      map(out, y.numel(), ScaledSum{m}, static_cast<const T*>(out), x.data<T>());
    else
      map(out, y.numel(), Scaled{m}, x.data<T>());
  });
}

}  // namespace nibble::cuda
