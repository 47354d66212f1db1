// Var: a value and its place on the tape that recorded it, if any.
#pragma once

#include <memory>

#include "autograd/parameter.h"
#include "quant/qtensor.h"

namespace nibble {

class Tape;
struct Origin;
class Remade;

class Var {
 public:
  Var() = default;
  Var(Tensor constant) : value_(std::move(constant)) {}  // NOLINT: a tensor is a constant
  explicit Var(Value constant) : value_(std::move(constant)) {}
  // In the dtype it is stored in; codes are decoded to F32 when they are first read as a tensor.
  Var(Parameter& parameter);  // NOLINT

  const Value& value() const { return value_; }
  // The dense tensor (of an Encoded: its dense part); throws Error("var") for codes.
  const Tensor& tensor() const;
  // Of the tensor, or of the one that an Encoded stands for without keeping it.
  const Shape& shape() const;
  std::int64_t size(int dim) const { return shape()[dim]; }
  DType dtype() const;
  Device device() const;
  double item() const { return tensor().item(); }
  bool tracked() const { return slot_ >= 0 || parameter_; }
  Parameter* parameter() const { return parameter_; }  // null unless it stands for one
  Var detach() const;
  // How backward could make the value again (autograd/origin.h), null where it could not.
  const std::shared_ptr<const Origin>& origin() const { return origin_; }
  void set_origin(std::shared_ptr<const Origin> origin) { origin_ = std::move(origin); }
  // Whoever reads the value in backward keeps this in its place; null: the value itself.
  const std::shared_ptr<Remade>& remade() const { return remade_; }
  void set_remade(std::shared_ptr<Remade> remade) { remade_ = std::move(remade); }

 private:
  friend class Tape;
  bool stands_for_codes() const { return parameter_ && std::holds_alternative<QTensor>(value_); }

  mutable Value value_;
  std::int32_t slot_ = -1;
  std::uint64_t recording_ = 0;  // which recording the slot belongs to
  Parameter* parameter_ = nullptr;
  std::shared_ptr<const Origin> origin_;
  std::shared_ptr<Remade> remade_;
};

}  // namespace nibble
