// What a node's backward sees of the tape.
#include "autograd/tape.h"

namespace nibble {

const Tensor& Grads::out() const {
  const Tape::Slot& output = tape_.slots_[static_cast<std::size_t>(node_.output)];
  return output.encoded_grad ? output.encoded_grad->dense() : output.grad;
}

const Encoded* Grads::encoded_out() const {
  const auto& encoded = tape_.slots_[static_cast<std::size_t>(node_.output)].encoded_grad;
  return encoded ? &*encoded : nullptr;
}

Tape::Slot* Grads::slot(int input) const {
  NIBBLE_CHECK(input >= 0 && input < node_.inputs, "grads", "{} has {} inputs, got {}",
               node_.op->name, node_.inputs, input);
  const std::int32_t s = tape_.input_slots_[static_cast<std::size_t>(node_.first_input + input)];
  return s < 0 ? nullptr : &tape_.slots_[static_cast<std::size_t>(s)];
}

bool Grads::wants(int input) const { return slot(input) != nullptr; }

const Wanted* Grads::wanted(int input) const {
  const Tape::Slot* s = slot(input);
  const bool alone = s && s->consumers == 1 && !s->grad.defined() && !s->encoded_grad;
  return alone && !s->watched && s->wanted && tape_.may_encode() ? &*s->wanted : nullptr;
}

const Shape& Grads::input_shape(int input) const {
  NIBBLE_CHECK(wants(input), "grads", "input {} of {} is a constant", input, node_.op->name);
  return slot(input)->shape;
}

bool Grads::wants_column_sums(int input) const {
  const Tape::Slot* s = slot(input);
  return s && s->wants_sums && s->consumers == 1 && !s->grad.defined();
}

const Tensor& Grads::column_sums() const {
  return tape_.slots_[static_cast<std::size_t>(node_.output)].grad_sums;
}

void Grads::add(int input, Tensor gradient, Tensor column_sums) {
  NIBBLE_CHECK(wants_column_sums(input), "grads", "input {} of {} wants no sums of its gradient",
               input, node_.op->name);
  Tape::Slot* s = slot(input);
  NIBBLE_CHECK(gradient.shape() == s->shape && gradient.dtype() == s->dtype, "grads",
               "got a gradient {} with sums, expected {}{}", describe(gradient), s->dtype,
               s->shape);
  s->grad = std::move(gradient);
  s->grad_sums = std::move(column_sums);
}

Tensor Grads::take(int input) {
  Tape::Slot* s = slot(input);
  if (!s || s->parameter) return {};
  s->grad_sums = Tensor();
  return std::exchange(s->grad, Tensor());
}

void Grads::add(int input, Tensor gradient) {
  Tape::Slot* s = slot(input);
  if (s) tape_.accumulate(*s, std::move(gradient));
}

void Grads::add(int input, Encoded gradient) {
  NIBBLE_CHECK(wanted(input), "grads", "input {} of {} wants no codes as its gradient", input,
               node_.op->name);
  Tape::Slot* s = slot(input);
  NIBBLE_CHECK(gradient.shape() == s->shape && gradient.dtype() == s->dtype, "grads",
               "got an encoded gradient {}{}, expected {}{}", gradient.dtype(), gradient.shape(),
               s->dtype, s->shape);
  s->encoded_grad = std::move(gradient);
  const std::int32_t at = static_cast<std::int32_t>(s - tape_.slots_.data());
  if (const Tape::Node* reader = tape_.maker_of(at))
    tape_.handovers_.push_back({node_.op->name, reader->module, true});
}

void Grads::release_out() {
  Tape::Slot& output = tape_.slots_[static_cast<std::size_t>(node_.output)];
  output.grad = output.grad_sums = Tensor();
  output.encoded_grad.reset();
}

Grads::Sink Grads::sink(int input) {
  Tape::Slot* s = slot(input);
  NIBBLE_CHECK(s, "grads", "input {} of {} is a constant", input, node_.op->name);
  if (s->parameter) {
    Sink sink{s->parameter->grad_buffer(), s->parameter->has_grad()};
    s->parameter->set_has_grad(true);
    return sink;
  }
  const bool accumulate = s->grad.defined();
  s->grad_sums = Tensor();
  if (accumulate)
    s->grad = s->grad.clone();  // it may be another slot's gradient as well
  else
    s->grad = Tensor::empty(s->shape, s->dtype, out().device());
  return {s->grad, accumulate};
}

}  // namespace nibble
