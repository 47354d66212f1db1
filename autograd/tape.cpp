#include "autograd/tape.h"

#include <algorithm>
#include <atomic>

#include "autograd/context.h"
#include "tensor/ops.h"

namespace nibble {
namespace {

thread_local Tape* t_active = nullptr;
thread_local UsedParameters* t_used = nullptr;
std::atomic<std::uint64_t> g_recordings{0};

// The dense tensor of a value, or null.
const Tensor* dense_of(const Value& value) {
  const auto* dense = std::get_if<Tensor>(&value);
  if (const auto* encoded = std::get_if<Encoded>(&value)) dense = &encoded->dense();
  return dense && dense->defined() ? dense : nullptr;
}

bool is_finite(const Tensor& x) { return !is_float(x.dtype()) || ops::all_finite(x); }

}  // namespace

Var::Var(Parameter& parameter) : value_(parameter.value()), parameter_(&parameter) {}

const Tensor& Var::tensor() const {
  if (stands_for_codes()) value_ = parameter_->dense(DType::F32);
  if (const auto* dense = std::get_if<Tensor>(&value_)) return *dense;
  const auto* encoded = std::get_if<Encoded>(&value_);
  NIBBLE_CHECK(encoded && encoded->dense().defined(), "var",
               "expected a dense tensor, got codes; dequantize() them first");
  return encoded->dense();
}

const Shape& Var::shape() const {
  if (stands_for_codes()) return std::get<QTensor>(value_).shape();
  const auto* encoded = std::get_if<Encoded>(&value_);
  return encoded ? encoded->shape() : tensor().shape();
}
DType Var::dtype() const {
  if (stands_for_codes()) return DType::F32;
  const auto* encoded = std::get_if<Encoded>(&value_);
  return encoded ? encoded->dtype() : tensor().dtype();
}
Device Var::device() const {
  if (stands_for_codes()) return parameter_->device();
  const auto* encoded = std::get_if<Encoded>(&value_);
  return encoded && !encoded->dense().defined() && !encoded->encodings().empty()
             ? encoded->encodings().front().device()
             : tensor().device();
}
Var Var::detach() const {
  if (stands_for_codes()) return Var(tensor());
  return Var(value_);
}

void* TapeArena::allocate(std::size_t bytes, std::size_t align) {
  used_ = (used_ + align - 1) / align * align;
  if (block_ < blocks_.size() && used_ + bytes > kBlock) ++block_, used_ = 0;
  NIBBLE_CHECK(bytes <= kBlock, "tape", "a node state of {} bytes exceeds {}", bytes, kBlock);
  if (block_ == blocks_.size()) blocks_.push_back(std::make_unique<std::byte[]>(kBlock));
  void* p = blocks_[block_].get() + used_;
  used_ += bytes;
  return p;
}

Tape::Tape() = default;
Tape::~Tape() { clear(); }
Tape* Tape::active() { return t_active; }

Tape::Recording::Recording(Tape& tape) : previous_(t_active) {
  tape.clear();
  tape.handovers_.clear();
  tape.recording_ = ++g_recordings;
  t_active = &tape;
}
Tape::Recording::~Recording() { t_active = previous_; }
NoGrad::NoGrad() : previous_(t_active) { t_active = nullptr; }
NoGrad::~NoGrad() { t_active = previous_; }

UsedParameters::UsedParameters() : previous_(t_used) { t_used = this; }
UsedParameters::~UsedParameters() { t_used = previous_; }
void UsedParameters::note(std::span<const Var* const> inputs) {
  if (!t_used) return;
  std::vector<Parameter*>& seen = t_used->parameters_;
  for (const Var* v : inputs) {
    Parameter* p = v->parameter();
    if (p && p->requires_grad && std::find(seen.begin(), seen.end(), p) == seen.end())
      seen.push_back(p);
  }
}

void Tape::clear() {
  for (; !nodes_.empty(); nodes_.pop_back()) nodes_.back().op->destroy(nodes_.back().state);
  input_slots_.clear();
  slots_.clear();
  parameter_slots_.clear();
  arena_.reset();
}

Var Tape::watch(Tensor value) {
  NIBBLE_CHECK(recording_ != 0, "tape", "watch() needs a recording");
  Var leaf(std::move(value));
  leaf.slot_ = static_cast<std::int32_t>(slots_.size());
  leaf.recording_ = recording_;
  Slot& slot = slots_.emplace_back();
  slot.shape = leaf.shape();
  slot.dtype = leaf.dtype();
  slot.watched = true;
  return leaf;
}

bool Tape::any_tracked(std::span<const Var* const> inputs) {
  for (const Var* v : inputs)
    if (v->slot_ >= 0 || (v->parameter_ && v->parameter_->requires_grad)) return true;
  return false;
}

std::int32_t Tape::slot_of(const Var& input) {
  if (input.slot_ >= 0) {
    NIBBLE_CHECK(
        input.recording_ == recording_, "tape",
        "an input was recorded by another tape or an earlier recording; detach() it, or pass it "
        "through checkpoint()'s argument");
    return input.slot_;
  }
  if (!input.parameter_ || !input.parameter_->requires_grad) return -1;
  for (const auto& [parameter, slot] : parameter_slots_)
    if (parameter == input.parameter_) return slot;
  const auto slot = static_cast<std::int32_t>(slots_.size());
  slots_.emplace_back().parameter = input.parameter_;
  slots_.back().shape = input.parameter_->shape();
  parameter_slots_.emplace_back(input.parameter_, slot);
  return slot;
}

const Tape::Node* Tape::maker_of(std::int32_t slot) const {
  const auto at = std::find_if(nodes_.rbegin(), nodes_.rend(),
                               [slot](const Node& node) { return node.output == slot; });
  return at == nodes_.rend() ? nullptr : &*at;
}

Var Tape::append(const OpInfo& op, void* state, std::span<const Var* const> inputs, Value output) {
  // A valid node before anything can throw: its state is destroyed whatever happens, and a
  // backward pass that comes after all skips it.
  nodes_.push_back({&op, state, static_cast<std::int32_t>(slots_.size()),
                    static_cast<std::int32_t>(input_slots_.size()), 0, &module_path()});
  slots_.emplace_back();
  Node& node = nodes_.back();
  for (const Var* v : inputs) {
    const std::int32_t slot = slot_of(*v);
    if (slot >= 0) ++slots_[static_cast<std::size_t>(slot)].consumers;
    input_slots_.push_back(slot);
    ++node.inputs;
    if (slot < 0 || !std::holds_alternative<Encoded>(v->value_)) continue;
    if (const Node* maker = maker_of(slot))
      handovers_.push_back({maker->op->name, node.module, false});
  }
  if (check_finite_) check_output(node, output);
  if (observer_)
    if (const Tensor* dense = dense_of(output)) observer_->output(observed(), *dense);
  Var result;
  result.value_ = std::move(output);
  Slot& slot = slots_[static_cast<std::size_t>(node.output)];
  slot.shape = result.shape();
  slot.dtype = result.dtype();
  result.slot_ = node.output;
  result.recording_ = recording_;
  return result;
}

void Tape::want(const Var& output, Wanted wanted) {
  NIBBLE_CHECK(output.slot_ >= 0 && output.recording_ == recording_, "tape",
               "want() needs an output that this tape recorded");
  slots_[static_cast<std::size_t>(output.slot_)].wanted = std::move(wanted);
}

void Tape::want_column_sums(const Var& output) {
  NIBBLE_CHECK(output.slot_ >= 0 && output.recording_ == recording_, "tape",
               "want_column_sums() needs an output that this tape recorded");
  slots_[static_cast<std::size_t>(output.slot_)].wants_sums = true;
}

void Tape::backward(const Var& loss) {
  NIBBLE_CHECK(loss.tensor().numel() == 1, "backward",
               "got a loss of shape {}, expected one element", loss.shape());
  backward(loss, Tensor::full(loss.shape(), 1, loss.dtype(), loss.device()));
}

void Tape::backward(const Var& output, Tensor gradient) {
  NIBBLE_CHECK(output.slot_ >= 0 && output.recording_ == recording_, "backward",
               "the output does not depend on anything recorded on this tape");
  NIBBLE_CHECK(gradient.shape() == output.shape(), "backward",
               "got a gradient {}, expected shape {}", describe(gradient), output.shape());
  accumulate(slots_[static_cast<std::size_t>(output.slot_)], std::move(gradient));
  run_backward();
}

void Tape::run_backward() {
  const NoGrad no_grad;
  const MemoryScope memory{"workspace"};  // gradients of activations, and what their kernels need
  while (!nodes_.empty()) {
    const Node node = nodes_.back();
    const Slot& output = slots_[static_cast<std::size_t>(node.output)];
    if (output.grad.defined() || output.encoded_grad) {
      const ModuleScope scope(*node.module);
      const ProfileRange range(node.op->name);
      if (observer_) observer_->gradient(observed(), output.grad);
      Grads grads(*this, node);
      node.op->backward(node.state, grads);
      if (check_finite_) check_gradients(node);
    }
    nodes_.pop_back();
    node.op->destroy(node.state);
    if (Slot& done = slots_[static_cast<std::size_t>(node.output)]; !done.watched) {
      done.grad = done.grad_sums = Tensor();
      done.encoded_grad.reset();
    }
    for (std::int32_t i = 0; i < node.inputs; ++i) {
      const std::int32_t s = input_slots_[static_cast<std::size_t>(node.first_input + i)];
      if (s < 0) continue;
      Slot& slot = slots_[static_cast<std::size_t>(s)];
      if (--slot.consumers == 0 && slot.parameter && grad_ready_) grad_ready_(*slot.parameter);
    }
    input_slots_.resize(static_cast<std::size_t>(node.first_input));
  }
  arena_.reset();
}

Tensor Tape::gradient(const Var& leaf) const {
  NIBBLE_CHECK(leaf.slot_ >= 0 && leaf.recording_ == recording_, "gradient",
               "the variable was not watched by this tape");
  const Tensor& grad = slots_[static_cast<std::size_t>(leaf.slot_)].grad;
  return grad.defined() ? ops::contiguous(grad) : grad;
}

void Tape::accumulate(Slot& slot, Tensor gradient) {
  if (gradient.shape() != slot.shape) gradient = ops::sum_to(gradient, slot.shape);
  if (slot.parameter) {
    Tensor& buffer = slot.parameter->grad_buffer();
    if (!slot.parameter->has_grad())
      buffer.copy_from(gradient);
    else  // the buffer takes narrower gradients as they are
      ops::axpy(buffer, gradient.dtype() == DType::F64 ? gradient.to(buffer.dtype()) : gradient);
    slot.parameter->set_has_grad(true);
    return;
  }
  gradient = gradient.to(slot.dtype);
  slot.grad_sums = Tensor();
  // Out of place: the tensor there may be another slot's gradient as well.
  slot.grad = slot.grad.defined() ? ops::add(slot.grad, gradient) : std::move(gradient);
}

TapeObserver::Op Tape::observed() const {
  const Node& node = nodes_.back();
  return {*node.module, node.op->name, recording_, nodes_.size() - 1};
}

void Tape::check_output(const Node& node, const Value& output) const {
  const Tensor* dense = dense_of(output);
  NIBBLE_CHECK(!dense || is_finite(*dense), "not finite",
               "the output of {} in module '{}' ({}) holds a NaN or infinity", node.op->name,
               *node.module, describe(*dense));
}

void Tape::check_gradients(const Node& node) const {
  for (std::int32_t i = 0; i < node.inputs; ++i) {
    const std::int32_t s = input_slots_[static_cast<std::size_t>(node.first_input + i)];
    if (s < 0) continue;
    const Slot& slot = slots_[static_cast<std::size_t>(s)];
    const Parameter* p = slot.parameter;
    const Tensor& gradient = p ? p->grad() : slot.grad;
    NIBBLE_CHECK(!gradient.defined() || (p && !p->has_grad()) || is_finite(gradient), "not finite",
                 "the gradient of {} of {} in module '{}' ({}) holds a NaN or infinity",
                 p ? fmt::format("parameter '{}'", p->name) : fmt::format("input {}", i),
                 node.op->name, *node.module, describe(gradient));
  }
}

std::string Tape::summary() const {
  std::string text;
  for (const Node& node : nodes_)
    text += fmt::format("{:<24} {:<32} {}\n", node.op->name, *node.module,
                        slots_[static_cast<std::size_t>(node.output)].shape);
  return text;
}

}  // namespace nibble
