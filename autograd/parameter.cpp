#include "autograd/parameter.h"

namespace nibble {

Shape Parameter::shape() const {
  if (const auto* q = std::get_if<QTensor>(&value_)) return q->shape();
  return std::get<Tensor>(value_).shape();
}

Device Parameter::device() const {
  if (const auto* q = std::get_if<QTensor>(&value_)) return q->device();
  return std::get<Tensor>(value_).device();
}

Tensor& Parameter::storage() {
  auto* dense = std::get_if<Tensor>(&value_);
  NIBBLE_CHECK(dense, "parameter", "{} is stored as codes, expected a dense tensor", name);
  return *dense;
}

QTensor& Parameter::quantized() {
  auto* q = std::get_if<QTensor>(&value_);
  NIBBLE_CHECK(q, "parameter", "{} is dense, expected codes", name);
  return *q;
}

const Tensor& Parameter::dense(DType dtype) {
  if (const auto* dense = std::get_if<Tensor>(&value_); dense && dense->dtype() == dtype)
    return *dense;
  if (!cast_.defined() || cast_.dtype() != dtype) {
    const MemoryScope scope{"encodings"};
    const auto* q = std::get_if<QTensor>(&value_);
    cast_ = q ? dequantize(*q, dtype) : std::get<Tensor>(value_).to(dtype);
  }
  return cast_;
}

void Parameter::set_value(Value value) {
  const auto* codes = std::get_if<QTensor>(&value);
  const Shape given = codes ? codes->shape() : std::get<Tensor>(value).shape();
  NIBBLE_CHECK(given == shape(), "parameter", "{}: got shape {}, expected {}", name, given,
               shape());
  value_ = std::move(value);
  bump_version();
}

const QTensor& Parameter::encoded(const QuantSpec& spec, bool transposed, const RngKey& key) {
  if (const auto* q = std::get_if<QTensor>(&value_); q && !transposed && q->spec() == spec)
    return *q;
  for (CachedEncoding& e : encodings_)
    if (e.transposed == transposed && e.spec == spec) return e.codes;
  const auto* stored = std::get_if<Tensor>(&value_);
  const Tensor& source = stored ? *stored : dense(DType::F32);
  const MemoryScope scope{"encodings"};
  encodings_.push_back({spec, transposed, quantize(source, spec, key, transposed)});
  return encodings_.back().codes;
}

void Parameter::bump_version() {
  ++version_;
  encodings_.clear();
  cast_ = Tensor();
}

Tensor& Parameter::grad_buffer() {
  if (!grad_.defined()) {
    const auto* dense = std::get_if<Tensor>(&value_);
    const MemoryScope scope{"gradients"};
    grad_ = Tensor::empty(shape(), dense && dense->dtype() == DType::F64 ? DType::F64 : DType::F32,
                          device());
    has_grad_ = false;
  }
  return grad_;
}

void Parameter::set_grad_buffer(Tensor buffer) {
  NIBBLE_CHECK(buffer.shape() == shape(), "parameter",
               "{}: got a gradient buffer {}, expected shape {}", name, describe(buffer), shape());
  grad_ = std::move(buffer);
  has_grad_ = false;
}

}  // namespace nibble
