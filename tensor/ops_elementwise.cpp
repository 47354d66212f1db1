#include "tensor/activation_sums.h"
#include "tensor/op_checks.h"
#include "tensor/ops.h"

namespace nibble::ops {
namespace {

struct Pair {
  Tensor a, b;  // expanded to one shape
};
Pair broadcast(const char* op, const Tensor& a, const Tensor& b) {
  check_float(op, a);
  check_same_kind(op, a, b);
  const Shape shape = broadcast_shapes(op, a.shape(), b.shape());
  return {a.expand(shape), b.expand(shape)};
}
Tensor result_like(const Tensor& x) { return Tensor::empty(x.shape(), x.dtype(), x.device()); }

Tensor dense_float(const char* op, const Tensor& x) {
  check_float(op, x);
  return contiguous(x);
}

}  // namespace

#define NIBBLE_BINARY(name)                         \
  Tensor name(const Tensor& a, const Tensor& b) {   \
    const Pair p = broadcast(#name, a, b);          \
    Tensor y = result_like(p.a);                    \
    NIBBLE_DISPATCH(y.device(), name(y, p.a, p.b)); \
    return y;                                       \
  }
NIBBLE_BINARY(add)
NIBBLE_BINARY(sub)
NIBBLE_BINARY(mul)
NIBBLE_BINARY(div)
NIBBLE_BINARY(maximum)
NIBBLE_BINARY(minimum)
#undef NIBBLE_BINARY

#define NIBBLE_COMPARE(name)                                      \
  Tensor name(const Tensor& a, const Tensor& b) {                 \
    const Pair p = broadcast(#name, a, b);                        \
    Tensor y = Tensor::empty(p.a.shape(), DType::U8, a.device()); \
    NIBBLE_DISPATCH(y.device(), name(y, p.a, p.b));               \
    return y;                                                     \
  }
NIBBLE_COMPARE(less)
NIBBLE_COMPARE(equal)
#undef NIBBLE_COMPARE

Tensor where(const Tensor& mask, const Tensor& a, const Tensor& b) {
  NIBBLE_CHECK(mask.dtype() == DType::U8, "where", "got mask {}, expected dtype u8",
               describe(mask));
  NIBBLE_CHECK(mask.device() == a.device(), "where", "devices differ: got mask {} and {}",
               describe(mask), describe(a));
  const Pair p = broadcast("where", a, b);
  const Shape shape = broadcast_shapes("where", mask.shape(), p.a.shape());
  const Tensor m = mask.expand(shape), wide_a = p.a.expand(shape), wide_b = p.b.expand(shape);
  Tensor y = result_like(wide_a);
  NIBBLE_DISPATCH(y.device(), where(y, m, wide_a, wide_b));
  return y;
}

void axpy(Tensor& y, const Tensor& x, double alpha) {
  check_accumulates("axpy", y, x);
  check_same_shape("axpy", y, x);
  check_in_place("axpy", y);
  const Tensor source = contiguous(x);
  NIBBLE_DISPATCH(y.device(), axpy(y, source, alpha));
  y.bump_version();
}

void scale_by(Tensor& y, const Tensor& x, const Tensor& factor, bool accumulate) {
  check_float("scale_by", y);
  check_same_kind("scale_by", y, x);
  check_same_shape("scale_by", y, x);
  check_in_place("scale_by", y);
  const DType wide = y.dtype() == DType::F64 ? DType::F64 : DType::F32;
  NIBBLE_CHECK(factor.numel() == 1 && factor.dtype() == wide && factor.device() == y.device(),
               "scale_by", "got factor {} for {}, expected one {} there", describe(factor),
               describe(y), wide);
  const Tensor source = contiguous(x);
  NIBBLE_DISPATCH(y.device(), scale_by(y, source, factor, accumulate));
  y.bump_version();
}

Tensor affine(const Tensor& x, double scale, double shift) {
  const Tensor in = dense_float("affine", x);
  Tensor y = result_like(in);
  NIBBLE_DISPATCH(y.device(), affine(y, in, scale, shift));
  return y;
}

Tensor neg(const Tensor& x) { return affine(x, -1); }
Tensor square(const Tensor& x) { return mul(x, x); }

#define NIBBLE_UNARY(name)                    \
  Tensor name(const Tensor& x) {              \
    const Tensor in = dense_float(#name, x);  \
    Tensor y = result_like(in);               \
    NIBBLE_DISPATCH(y.device(), name(y, in)); \
    return y;                                 \
  }
NIBBLE_UNARY(abs)
NIBBLE_UNARY(sign)
NIBBLE_UNARY(exp)
NIBBLE_UNARY(log)
NIBBLE_UNARY(sqrt)
NIBBLE_UNARY(rsqrt)
NIBBLE_UNARY(sin)
NIBBLE_UNARY(cos)
NIBBLE_UNARY(tanh)
NIBBLE_UNARY(sigmoid)
NIBBLE_UNARY(erf)
NIBBLE_UNARY(relu)
NIBBLE_UNARY(silu)
#undef NIBBLE_UNARY

Tensor clamp(const Tensor& x, double low, double high) {
  NIBBLE_CHECK(low <= high, "clamp", "got bounds {} and {}, expected low <= high", low, high);
  const Tensor in = dense_float("clamp", x);
  Tensor y = result_like(in);
  NIBBLE_DISPATCH(y.device(), clamp(y, in, low, high));
  return y;
}

Tensor pow(const Tensor& x, double exponent) {
  const Tensor in = dense_float("pow", x);
  Tensor y = result_like(in);
  NIBBLE_DISPATCH(y.device(), pow(y, in, exponent));
  return y;
}

Tensor silu_backward(const Tensor& dy, const Tensor& x) {
  check_same_kind("silu_backward", dy, x);
  check_same_shape("silu_backward", dy, x);
  const Tensor in = dense_float("silu_backward", x), grad = contiguous(dy);
  Tensor dx = result_like(in);
  NIBBLE_DISPATCH(dx.device(), silu_backward(dx, grad, in));
  return dx;
}

Tensor gelu(const Tensor& x, Gelu kind) {
  const Tensor in = dense_float("gelu", x);
  Tensor y = result_like(in);
  if (kind == Gelu::Tanh)
    NIBBLE_DISPATCH(y.device(), gelu_tanh(y, in));
  else
    NIBBLE_DISPATCH(y.device(), gelu_erf(y, in));
  return y;
}

Tensor gelu_backward(const Tensor& dy, const Tensor& x, Gelu kind) {
  check_same_kind("gelu_backward", dy, x);
  check_same_shape("gelu_backward", dy, x);
  const Tensor in = dense_float("gelu_backward", x), grad = contiguous(dy);
  Tensor dx = result_like(in);
  if (kind == Gelu::Tanh)
    NIBBLE_DISPATCH(dx.device(), gelu_tanh_backward(dx, grad, in));
  else
    NIBBLE_DISPATCH(dx.device(), gelu_erf_backward(dx, grad, in));
  return dx;
}

SummedGradient gelu_backward_sums(const Tensor& dy, const Tensor& x) {
  check_same_kind("gelu_backward", dy, x);
  check_same_shape("gelu_backward", dy, x);
  NIBBLE_CHECK(x.rank() > 0 && x.dtype() != DType::F64, "gelu_backward",
               "got {}, expected f32 or bf16 [..., C] for sums over rows", describe(x));
  const Tensor in = dense_float("gelu_backward", x).flatten_rows(),
               grad = contiguous(dy).flatten_rows();
  Tensor dx = result_like(in), sums = Tensor::empty({in.size(1)}, DType::F32, in.device());
  NIBBLE_DISPATCH(dx.device(), gelu_tanh_backward_sums(dx, sums, grad, in));
  return {dx.view(x.shape()), sums};
}

Tensor dropout(const Tensor& x, double p, const RngKey& key) {
  NIBBLE_CHECK(p >= 0 && p <= 1, "dropout", "got p = {}, expected 0 to 1", p);
  const Tensor in = dense_float("dropout", x);
  Tensor y = result_like(in);
  NIBBLE_DISPATCH(y.device(), dropout(y, in, p, key));
  return y;
}

}  // namespace nibble::ops
