// Var: a value and its place on the tape that recorded it, if any.
#pragma once

#include "autograd/parameter.h"
#include "quant/qtensor.h"

namespace nibble {

class Tape;

class Var {
 public:
  Var() = default;
  Var(Tensor constant) : value_(std::move(constant)) {}  // NOLINT: a tensor is a constant
  explicit Var(Value constant) : value_(std::move(constant)) {}
  Var(Parameter& parameter);  // NOLINT: in the dtype it is stored in

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
  Var detach() const { return Var(value_); }

 private:
  friend class Tape;
  Value value_;
  std::int32_t slot_ = -1;
  std::uint64_t recording_ = 0;  // which recording the slot belongs to
  Parameter* parameter_ = nullptr;
};

}  // namespace nibble
