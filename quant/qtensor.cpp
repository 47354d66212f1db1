#include "quant/qtensor.h"

#include "quant/kernels.h"
#include "quant/scales.h"

namespace nibble {
namespace {

constexpr const char* kOp = "qtensor";

Shape payload_shape(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
  return {rows, spec.packed ? cols + cols % 2 : cols};
}

void check_part(const char* part, const Tensor& tensor, DType dtype, const Shape& shape,
                Device device) {
  NIBBLE_CHECK(tensor.defined(), kOp, "the {} are missing: expected {}{}", part, dtype, shape);
  NIBBLE_CHECK(tensor.dtype() == dtype && tensor.shape() == shape && tensor.device() == device, kOp,
               "{}: got {}, expected {}{} on {}", part, describe(tensor), dtype, shape, device);
}

// Contiguous transpose; one column or row needs no copy.
Tensor transposed(const Tensor& x) {
  if (!x.defined()) return x;
  const Tensor view = x.t();
  if (view.is_contiguous()) return view;
  if (!x.is_contiguous() || bytes_of(x.dtype(), 1) != 1) return view.clone();
  Tensor y = Tensor::empty(view.shape(), x.dtype(), x.device());
  NIBBLE_DISPATCH(x.device(), quant_transpose(y, x));
  return y;
}

}  // namespace

QTensor::QTensor(Tensor payload, Tensor scales, Tensor zeros, Tensor global_scale, QuantSpec spec,
                 Shape shape)
    : payload_(std::move(payload)),
      scales_(std::move(scales)),
      zeros_(std::move(zeros)),
      global_(std::move(global_scale)),
      spec_(std::move(spec)),
      shape_(shape) {
  NIBBLE_CHECK(shape_.rank() == 2, kOp, "got shape {}, expected a matrix", shape_);
  spec_.validate();
  NIBBLE_CHECK(payload_.defined(), kOp, "the codes are missing");
  const Device at = payload_.device();
  const Shape tiles = spec_.scale_shape(rows(), cols());
  check_part("codes", payload_, spec_.payload(), payload_shape(spec_, rows(), cols()), at);
  check_part("scales", scales_, scale_dtype(spec_.scale), tiles, at);
  if (spec_.symmetric)
    NIBBLE_CHECK(!zeros_.defined(), kOp, "zero points given, but the spec is symmetric: {}",
                 to_string(spec_));
  else
    check_part("zero points", zeros_, DType::F32, tiles, at);
  if (spec_.scale == ScaleType::TwoLevel)
    check_part("global scale", global_, DType::F32, Shape{1}, at);
  else
    NIBBLE_CHECK(!global_.defined(), kOp, "a global scale given, but the spec has one level: {}",
                 to_string(spec_));
}

QTensor QTensor::empty(const QuantSpec& spec, std::int64_t rows, std::int64_t cols, Device device) {
  NIBBLE_CHECK(rows >= 0 && cols >= 0, kOp, "got {} rows and {} columns", rows, cols);
  spec.validate();
  Scales s = Scales::empty(spec, rows, cols, device);
  return {Tensor::empty(payload_shape(spec, rows, cols), spec.payload(), device),
          std::move(s.stored),
          std::move(s.zeros),
          std::move(s.global),
          spec,
          {rows, cols}};
}

Tensor QTensor::scales_f32() const { return Scales{scales_, zeros_, global_}.steps(spec_); }

std::int64_t QTensor::bytes() const {
  std::int64_t total = payload_.bytes() + scales_.bytes();
  if (zeros_.defined()) total += zeros_.bytes();
  if (global_.defined()) total += global_.bytes();
  return total;
}

QTensor QTensor::t() const {
  if (spec_.packed) return t_contiguous();
  return {payload_.t(), transposed(scales_), transposed(zeros_),
          global_,      spec_.t(),           {cols(), rows()}};
}

QTensor QTensor::t_contiguous() const {
  Tensor codes;
  if (spec_.packed) {
    const DType byte = spec_.format.payload();
    Tensor wide = Tensor::empty(shape_, byte, device());
    Tensor turned = Tensor::empty({cols(), rows()}, byte, device());
    codes = Tensor::empty(payload_shape(spec_, cols(), rows()), DType::U4x2, device());
    if (wide.numel() > 0) {
      NIBBLE_DISPATCH(device(), quant_unpack(wide, payload_));
      NIBBLE_DISPATCH(device(), quant_transpose(turned, wide));
      NIBBLE_DISPATCH(device(), quant_pack(codes, turned));
    }
  } else {
    codes = transposed(payload_);
  }
  return {std::move(codes), transposed(scales_), transposed(zeros_),
          global_,          spec_.t(),           {cols(), rows()}};
}

const QTensor* Encoded::find(const QuantSpec& spec, bool transposed) const {
  for (std::size_t i = 0; i < encodings_.size(); ++i)
    if (transposed_[i] == transposed && encodings_[i].spec() == spec) return &encodings_[i];
  return nullptr;
}

}  // namespace nibble
