// Argument checks that the functional ops share. Private to tensor/ops_*.cpp.
#pragma once

#include "tensor/tensor.h"

namespace nibble::ops {

inline void check_float(const char* op, const Tensor& x) {
  NIBBLE_CHECK(is_float(x.dtype()), op, "got {}, expected f64, f32 or bf16", describe(x));
}
inline void check_same_kind(const char* op, const Tensor& a, const Tensor& b) {
  NIBBLE_CHECK(a.dtype() == b.dtype(), op, "dtypes differ: got {} and {}; convert one with to()",
               describe(a), describe(b));
  NIBBLE_CHECK(a.device() == b.device(), op, "devices differ: got {} and {}", describe(a),
               describe(b));
}
inline void check_same_shape(const char* op, const Tensor& a, const Tensor& b) {
  NIBBLE_CHECK(a.shape() == b.shape(), op, "shapes differ: got {} and {}", a.shape(), b.shape());
}
// In-place ops write through the handle: a copy would be lost.
inline void check_in_place(const char* op, const Tensor& y) {
  NIBBLE_CHECK(y.is_contiguous(), op,
               "writes in place and needs a contiguous tensor: got {} with strides {}", describe(y),
               y.strides());
}
inline void check_index(const char* op, const Tensor& index, const Tensor& x) {
  NIBBLE_CHECK(index.dtype() == DType::I32, op, "got index {}, expected dtype i32",
               describe(index));
  NIBBLE_CHECK(index.device() == x.device(), op, "devices differ: got {} and index {}", describe(x),
               describe(index));
}
// `x` may be narrower than `y`, which accumulates it.
inline void check_accumulates(const char* op, const Tensor& y, const Tensor& x) {
  check_float(op, y);
  check_float(op, x);
  NIBBLE_CHECK(bytes_of(x.dtype(), 1) <= bytes_of(y.dtype(), 1), op,
               "the source is wider than its destination: got {} into {}", describe(x),
               describe(y));
  NIBBLE_CHECK(y.device() == x.device(), op, "devices differ: got {} and {}", describe(y),
               describe(x));
}

}  // namespace nibble::ops
