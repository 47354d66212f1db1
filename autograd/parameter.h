// Parameter: a named, trainable value with its gradient and cached encodings.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quant/qtensor.h"

namespace nibble {

class Parameter {
 public:
  Parameter() = default;
  explicit Parameter(Tensor value) : value_(std::move(value)) {}
  // Tapes, optimizers and views hold its address.
  Parameter(const Parameter&) = delete;
  Parameter& operator=(const Parameter&) = delete;

  std::string name;           // module path and field: "blocks.0.attn.qkv.weight"
  bool requires_grad = true;  // false: frozen; no gradient is computed or stored
  // false: casts and encodings live as long as their readers and are made anew for the next one,
  // where there is no memory for a second form of every weight.
  bool keeps_encodings = true;

  // A dense tensor, or a QTensor when weights are stored as codes.
  const Value& value() const { return value_; }
  Shape shape() const;
  std::int64_t numel() const { return shape().numel(); }
  Device device() const;
  // The dense value in `dtype`; cached until the next update when that is a conversion.
  Tensor dense(DType dtype);
  Tensor dense() { return dense(DType::F32); }
  // The stored tensor itself, for whoever updates it; throws when the storage is encoded.
  Tensor& storage();
  QTensor& quantized();
  bool is_quantized() const { return std::holds_alternative<QTensor>(value_); }
  void set_value(Value value);  // shape must stay
  // The encoding of the matrix (or its transpose) under a spec; cached until the next update.
  // Stored codes serve as they are where format and scales are the spec's, however it would round.
  QTensor encoded(const QuantSpec& spec, bool transposed, const RngKey& key);
  // Every in-place update must be followed by this: cached forms are dropped, kept ones stale.
  void bump_version();
  std::uint32_t version() const { return version_; }

  // What was made of the value and serves until it changes. The optimizer writes it again where it
  // lies (optim/encodings.h) rather than have it made anew.
  struct Form {
    Value value;              // codes of the matrix, or the dense value in another dtype
    bool transposed = false;  // codes of its transpose
    bool used = true;         // since the last update
    bool kept = false;        // updates write it again
    bool stale = false;       // kept, and made of an earlier value
  };
  std::vector<Form>& forms() { return forms_; }
  // From now on no more forms become kept, and those that are stay where they are: a recorded step
  // writes them.
  void fix_forms() { forms_fixed_ = true; }
  bool forms_fixed() const { return forms_fixed_; }
  // After an update that has written the kept forms again.
  void count_version() { ++version_; }

  // The gradient: written by backward when !has_grad, added to otherwise. F32 (F64 for an F64
  // value).
  Tensor& grad_buffer();  // allocated on first use
  const Tensor& grad() const { return grad_; }
  void set_grad_buffer(Tensor buffer);  // a view of an arena
  void release_grad();                  // forgets the gradient and its buffer
  bool has_grad() const { return has_grad_; }
  void set_has_grad(bool has) { has_grad_ = has; }

 private:
  Form* find_codes(const QuantSpec& spec, bool transposed);

  Value value_;
  Tensor grad_;
  bool has_grad_ = false, forms_fixed_ = false;
  std::uint32_t version_ = 0;
  std::vector<Form> forms_;
};

}  // namespace nibble
