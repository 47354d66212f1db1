#include <cstdint>
#include <utility>

#include "quant/kernels.h"
#include "quant/one_pass.h"
#include "quant/qtensor.h"
#include "quant/scales.h"

namespace nibble {

QTensor unwritten(const QuantSpec& spec, std::int64_t rows, std::int64_t cols, Device device) {
  if (spec.packed || rows * cols == 0) return QTensor::empty(spec, rows, cols, device);
  spec.validate();
  Scales s = Scales::unwritten(spec, rows, cols, device);
  return {Tensor::empty({rows, cols}, spec.payload(), device),
          std::move(s.stored),
          std::move(s.zeros),
          std::move(s.global),
          spec,
          {rows, cols}};
}

namespace {

Tensor matrix_of(const char* op, const Tensor& x) {
  NIBBLE_CHECK(is_float(x.dtype()), op, "got {}, expected f64, f32 or bf16", describe(x));
  const Tensor whole = x.is_contiguous() ? x : x.clone();
  return whole.view({x.rows(), x.cols()});
}

void write_codes(QTensor& q, const Tensor& x, const RngKey& key) {
  const QuantSpec& spec = q.spec();
  const Tensor steps = q.scales_f32();
  if (!spec.packed) {
    NIBBLE_DISPATCH(x.device(), quant_encode(q.payload(), x, steps, q.zeros(), spec, key));
    return;
  }
  Tensor codes = Tensor::empty(q.shape(), spec.format.payload(), x.device());
  NIBBLE_DISPATCH(x.device(), quant_encode(codes, x, steps, q.zeros(), spec, key));
  NIBBLE_DISPATCH(x.device(), quant_pack(q.payload(), codes));
}

// The one-pass kernels count on whole 16-byte vectors.
bool is_vectorized(const Tensor& x) {
  return x.device() == kMeta || reinterpret_cast<std::uintptr_t>(x.raw()) % 16 == 0;
}

void write(QTensor& q, const Tensor& x, const RngKey& key) {
  if (x.numel() == 0) return;
  if (x.dtype() != DType::F64 && is_vectorized(x) && is_vectorized(q.payload())) {
    if (has_row_runs(q.spec(), x.size(0), x.size(1))) {
      NIBBLE_DISPATCH(x.device(), quant_row_runs(q.payload(), q.scales(), x, q.spec(), key));
      return;
    }
    if (has_square_tiles(q.spec(), x.size(0), x.size(1))) {
      NIBBLE_DISPATCH(x.device(), quant_square_tiles(q.payload(), q.scales(), x, q.spec(), key));
      return;
    }
  }
  Scales{q.scales(), q.zeros(), q.global_scale()}.compute(x, q.spec());
  write_codes(q, x, key);
}

}  // namespace

QTensor quantize(const Tensor& x, const QuantSpec& spec, const RngKey& key, bool transposed) {
  const Tensor matrix = matrix_of("quantize", x);
  if (transposed && x.dtype() != DType::F64 && is_vectorized(matrix) &&
      has_column_runs(spec, matrix.size(0), matrix.size(1))) {
    QTensor q = unwritten(spec, matrix.size(1), matrix.size(0), matrix.device());
    NIBBLE_DISPATCH(x.device(), quant_column_runs(q.payload(), q.scales(), matrix, spec, key));
    return q;
  }
  // Encoding in x's own orientation and turning the codes keeps the noise tied to x's elements.
  QTensor q =
      unwritten(transposed ? spec.t() : spec, matrix.size(0), matrix.size(1), matrix.device());
  write(q, matrix, key);
  return transposed ? q.t_contiguous() : q;
}

void quantize_into(QTensor& q, const Tensor& x, const RngKey& key) {
  const Tensor matrix = matrix_of("quantize_into", x);
  NIBBLE_CHECK(matrix.shape() == q.shape(), "quantize_into", "got {} for a quantized {}",
               describe(x), q.shape());
  NIBBLE_CHECK(matrix.device() == q.device(), "quantize_into", "got {} for codes on {}",
               describe(x), q.device());
  NIBBLE_CHECK(q.payload().is_contiguous() && q.scales().is_contiguous(), "quantize_into",
               "the codes are a transposed view; write to the tensor that owns them");
  write(q, matrix, key);
  q.payload().bump_version();
  q.scales().bump_version();
}

std::pair<QTensor, QTensor> quantize_pair(const Tensor& x, const QuantSpec& spec,
                                          const QuantSpec& spec_t, const RngKey& key) {
  const Tensor matrix = matrix_of("quantize_pair", x);
  QTensor q = quantize(matrix, spec, key);
  if (spec_t == spec.t()) {
    QTensor turned = q.t_contiguous();
    return {std::move(q), std::move(turned)};
  }
  return {std::move(q), quantize(matrix, spec_t, key, true)};
}

Tensor dequantize(const QTensor& q, DType dtype) {
  NIBBLE_CHECK(is_float(dtype), "dequantize", "got dtype {}, expected f64, f32 or bf16", dtype);
  if (!q.payload().is_contiguous()) return dequantize(q.t().t_contiguous(), dtype);
  Tensor y = Tensor::empty(q.shape(), dtype, q.device());
  if (y.numel() == 0) return y;
  Tensor codes = q.payload();
  if (q.spec().packed) {
    codes = Tensor::empty(q.shape(), q.spec().format.payload(), q.device());
    NIBBLE_DISPATCH(q.device(), quant_unpack(codes, q.payload()));
  }
  NIBBLE_DISPATCH(q.device(), quant_decode(y, codes, q.scales_f32(), q.zeros(), q.spec()));
  return y;
}

Tensor fake_quantize(const Tensor& x, const QuantSpec& spec, const RngKey& key) {
  const Tensor matrix = matrix_of("fake_quantize", x);
  spec.validate();
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (x.numel() == 0) return y;
  Tensor flat = y.view(matrix.shape());
  if (x.dtype() != DType::F64 && is_vectorized(matrix) &&
      has_row_runs(spec, matrix.size(0), matrix.size(1))) {
    NIBBLE_DISPATCH(x.device(), quant_round_row_runs(flat, matrix, spec, key));
    return y;
  }
  Scales scales = Scales::unwritten(spec, matrix.size(0), matrix.size(1), x.device());
  scales.compute(matrix, spec);
  NIBBLE_DISPATCH(x.device(),
                  quant_roundtrip(flat, matrix, scales.steps(spec), scales.zeros, spec, key));
  return y;
}

}  // namespace nibble
