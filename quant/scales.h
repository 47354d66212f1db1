// The scale tensors of a QTensor without its codes: what a simulated product computes, uses and
// drops.
#pragma once

#include "quant/spec.h"
#include "tensor/tensor.h"

namespace nibble {

class QTensor;

DType scale_dtype(ScaleType scale);

struct Scales {
  Tensor stored;  // [spec.scale_shape], scale_dtype(spec.scale)
  Tensor zeros;   // F32, the same shape; asymmetric only
  Tensor global;  // F32 [1]; TwoLevel only

  // For a [rows, cols] matrix: zeroed tensors, or uninitialised ones, which compute() and the
  // kernels of quant/one_pass.h write whole if the matrix has elements.
  static Scales empty(const QuantSpec& spec, std::int64_t rows, std::int64_t cols, Device device);
  static Scales unwritten(const QuantSpec& spec, std::int64_t rows, std::int64_t cols,
                          Device device);
  // Fills them from x [rows, cols]: ranges, floor, steps, rounding to the stored type.
  void compute(const Tensor& x, const QuantSpec& spec);
  Tensor steps(const QuantSpec& spec) const;  // F32; `stored` itself when it is that
};

// A QTensor of such scales for kernels that write all its codes and scales; packed codes and
// matrices without elements begin with zeros.
QTensor unwritten(const QuantSpec& spec, std::int64_t rows, std::int64_t cols, Device device);

}  // namespace nibble
