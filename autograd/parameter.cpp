#include "autograd/parameter.h"

namespace nibble {
namespace {

// Whether codes of one spec mean the same under the other: rounding and the form of the division
// only decide which code a value gets.
bool same_law(QuantSpec stored, const QuantSpec& wanted) {
  stored.rounding = wanted.rounding;
  stored.scaling = wanted.scaling;
  return stored == wanted;
}

}  // namespace

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

Tensor Parameter::dense(DType dtype) {
  const auto* dense = std::get_if<Tensor>(&value_);
  if (dense && dense->dtype() == dtype) return *dense;
  const auto* q = std::get_if<QTensor>(&value_);
  for (Form& f : forms_) {
    auto* cast = std::get_if<Tensor>(&f.value);
    if (!cast || cast->dtype() != dtype) continue;
    if (f.stale) cast->copy_from(q ? dequantize(*q, dtype) : *dense);
    f.used = true, f.stale = false;
    return *cast;
  }
  if (!keeps_encodings) {
    const MemoryScope scope{"encodings"};
    return q ? dequantize(*q, dtype) : dense->to(dtype);
  }
  // One at a time: the largest weights have no room for two.
  std::erase_if(forms_, [](Form& f) { return !f.kept && std::holds_alternative<Tensor>(f.value); });
  const MemoryScope scope{"encodings"};
  const Tensor cast = q ? dequantize(*q, dtype) : dense->to(dtype);
  forms_.push_back({.value = cast});
  return cast;
}

void Parameter::set_value(Value value) {
  const auto* codes = std::get_if<QTensor>(&value);
  const Shape given = codes ? codes->shape() : std::get<Tensor>(value).shape();
  NIBBLE_CHECK(given == shape(), "parameter", "{}: got shape {}, expected {}", name, given,
               shape());
  value_ = std::move(value);
  bump_version();
}

Parameter::Form* Parameter::find_codes(const QuantSpec& spec, bool transposed) {
  for (Form& f : forms_) {
    const auto* codes = std::get_if<QTensor>(&f.value);
    if (codes && f.transposed == transposed && codes->spec() == spec) return &f;
  }
  return nullptr;
}

QTensor Parameter::encoded(const QuantSpec& spec, bool transposed, const RngKey& key) {
  if (const auto* q = std::get_if<QTensor>(&value_); q && !transposed && same_law(q->spec(), spec))
    return QTensor(q->payload(), q->scales(), q->zeros(), q->global_scale(), spec, q->shape());
  if (Form* f = find_codes(spec, transposed); f && !f->stale) {
    f->used = true;
    return std::get<QTensor>(f->value);
  }
  const MemoryScope scope{"encodings"};
  const auto make = [&] {
    // Codes whose tiles turn with them are turned.
    const Form* other = transposed ? find_codes(spec.t(), false) : nullptr;
    if (other && !other->stale) return std::get<QTensor>(other->value).t_contiguous();
    const auto* stored = std::get_if<Tensor>(&value_);
    return quantize(stored ? *stored : dense(DType::F32), spec, key, transposed);
  };
  QTensor codes = make();
  if (!keeps_encodings) return codes;
  Form* const old = find_codes(spec, transposed);
  if (!old) {
    forms_.push_back({.value = codes, .transposed = transposed});
    return codes;
  }
  auto& kept = std::get<QTensor>(old->value);
  kept.payload().copy_from(codes.payload());
  kept.scales().copy_from(codes.scales());
  old->used = true, old->stale = false;
  return kept;
}

void Parameter::bump_version() {
  ++version_;
  std::erase_if(forms_, [](Form& f) {
    f.stale = true;
    return !f.kept;
  });
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

void Parameter::release_grad() {
  grad_ = Tensor();
  has_grad_ = false;
}

}  // namespace nibble
