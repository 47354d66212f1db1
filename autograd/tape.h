// Tape: a define-by-run record of operations in execution order. backward() walks it in reverse and
// destroys each node behind itself, so the memory of saved tensors only falls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "autograd/observer.h"
#include "autograd/var.h"
#include "autograd/wanted.h"

namespace nibble {

class Grads;

// One per node type: its name and how to run and destroy it.
struct OpInfo {
  const char* name;
  void (*backward)(const void* state, Grads& grads);
  void (*destroy)(void* state);
};

// Bump allocation for node states; keeps its blocks between steps.
class TapeArena {
 public:
  void* allocate(std::size_t bytes, std::size_t align);
  void reset() { block_ = 0, used_ = 0; }

 private:
  static constexpr std::size_t kBlock = 1 << 16;
  std::vector<std::unique_ptr<std::byte[]>> blocks_;
  std::size_t block_ = 0, used_ = 0;
};

class Tape {
 public:
  Tape();
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // Makes the tape the thread's active one and empties it; recordings nest (checkpointing).
  class Recording {
   public:
    explicit Recording(Tape& tape);
    ~Recording();
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;

   private:
    Tape* previous_;
  };
  static Tape* active();  // null: nothing is recorded

  // A leaf whose gradient is kept: gradient(leaf) after backward.
  Var watch(Tensor value);
  // d loss / d everything recorded; loss has one element. Gradients of parameters go to their
  // grad_buffer (added when has_grad). The tape is empty afterwards but keeps its capacity.
  void backward(const Var& loss);
  void backward(const Var& output, Tensor gradient);
  // Of a watched leaf; undefined when nothing depended on it.
  Tensor gradient(const Var& leaf) const;
  void clear();

  // Fires when the last consumer of a parameter has run, so its gradient is complete for this pass.
  void on_grad_ready(std::function<void(Parameter&)> callback) {
    grad_ready_ = std::move(callback);
  }
  // Checks every output and gradient for not-finite values and throws Error naming operation,
  // module and tensor. Slow and synchronising: for the rerun after a bad step.
  void set_check_finite(bool on) { check_finite_ = on; }
  bool check_finite() const { return check_finite_; }
  // Sees every output and gradient (autograd/observer.h); null: nobody. It must outlive the passes.
  void set_observer(TapeObserver* observer) { observer_ = observer; }
  TapeObserver* observer() const { return observer_; }
  // Nobody looks at what passes, so that tensors may exist as codes alone.
  bool may_encode() const { return !observer_ && !check_finite_; }
  // What operations encoded for the layer that reads it: its input, or the gradient of its output.
  // Kept until the next recording.
  struct Handover {
    const char* producer;       // "layer_norm"
    const std::string* reader;  // "blocks.0.attn.qkv"
    bool gradient;
  };
  const std::vector<Handover>& handovers() const { return handovers_; }
  std::string summary() const;  // one line a node: name, module, output shape
  std::size_t size() const { return nodes_.size(); }

  // For record() and Grads.
  struct Node {
    const OpInfo* op;
    void* state;
    std::int32_t output, first_input, inputs;
    const std::string* module;
  };
  struct Slot {
    Tensor grad;                          // in dtype, whatever the contributions came in
    std::optional<Encoded> encoded_grad;  // instead of it, where the only contribution was encoded
    std::optional<Wanted> wanted;         // by the node that made the value, of its gradient
    bool wants_sums = false;              // that node reads the column sums of its gradient
    Tensor grad_sums;                     // of grad, where its only contribution came with them
    Shape shape;
    DType dtype = DType::F32;
    Parameter* parameter = nullptr;
    std::int32_t consumers = 0;
    bool watched = false;
  };
  TapeArena& arena() { return arena_; }
  Var append(const OpInfo& op, void* state, std::span<const Var* const> inputs, Value output);
  // What the node that made `output` wants of its gradient.
  void want(const Var& output, Wanted wanted);
  // It reads the gradient's sums over rows (a bias's gradient), where it comes as values.
  void want_column_sums(const Var& output);
  static bool any_tracked(std::span<const Var* const> inputs);

 private:
  friend class Grads;
  std::int32_t slot_of(const Var& input);
  const Node* maker_of(std::int32_t slot) const;  // of the slot's value; null for leaves
  void run_backward();
  void accumulate(Slot& slot, Tensor gradient);
  TapeObserver::Op observed() const;  // the last node
  void check_output(const Node& node, const Value& output) const;
  void check_gradients(const Node& node) const;

  TapeArena arena_;
  std::vector<Node> nodes_;
  std::vector<std::int32_t> input_slots_;
  std::vector<Slot> slots_;
  std::vector<std::pair<Parameter*, std::int32_t>> parameter_slots_;
  std::vector<Handover> handovers_;
  std::function<void(Parameter&)> grad_ready_;
  std::uint64_t recording_ = 0;
  TapeObserver* observer_ = nullptr;
  bool check_finite_ = false;
};

// Stops recording for a region.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  Tape* previous_;
};

// Collects the trainable parameters that operations use while nothing is recorded: a checkpoint's
// node must count as one of their consumers.
class UsedParameters {
 public:
  UsedParameters();
  ~UsedParameters();
  UsedParameters(const UsedParameters&) = delete;
  UsedParameters& operator=(const UsedParameters&) = delete;

  const std::vector<Parameter*>& list() const { return parameters_; }
  static void note(std::span<const Var* const> inputs);

 private:
  UsedParameters* previous_;
  std::vector<Parameter*> parameters_;
};

// What a node's backward sees of the tape.
class Grads {
 public:
  Grads(Tape& tape, const Tape::Node& node) : tape_(tape), node_(node) {}
  const Tape& tape() const { return tape_; }
  const Tensor& out() const;  // gradient of the node's output; any strides, maybe shared
  // The same as the node wanted it (Tape::want), where its producer served; else null.
  const Encoded* encoded_out() const;
  bool wants(int input) const;  // false for constants and frozen parameters
  // How the node that made the input wants its gradient, if this node's is all of it; else null.
  const Wanted* wanted(int input) const;
  const Shape& input_shape(int input) const;
  // Adds to the gradient of an input; a broadcast input's gradient is summed back to its shape
  // here, once for all operations.
  void add(int input, Tensor gradient);
  void add(int input, Encoded gradient);  // the answer to wanted(input)
  // Whether sums over the rows of an input's gradient are read, if this node's is all of it; the
  // gradient with them, F32 [cols], with column_sum's bits; and those of out(), or undefined.
  bool wants_column_sums(int input) const;
  void add(int input, Tensor gradient, Tensor column_sums);
  const Tensor& column_sums() const;
  // The gradient that an input has so far, for a kernel that adds this node's to it: the sum is
  // what the node then hands to add(). Like out() any strides and maybe shared; undefined where
  // nothing is there, and for parameters, whose way is sink().
  Tensor take(int input);
  // Where to write an input's gradient directly, and whether to add to what is there. Call it once
  // an input, and then do write: products accumulate into parameters without a temporary.
  struct Sink {
    Tensor destination;
    bool accumulate;
  };
  Sink sink(int input);
  // The node has read out() and encoded_out() for the last time: their memory may go.
  void release_out();

 private:
  Tape::Slot* slot(int input) const;
  Tape& tape_;
  const Tape::Node& node_;
};

// A tensor kept for backward, or made again there; get() throws when it was written in place since.
class Saved {
 public:
  Saved() = default;
  explicit Saved(Tensor tensor)
      : tensor_(std::move(tensor)), version_(tensor_.defined() ? tensor_.version() : 0) {}
  // Of a variable whose tensor, perhaps made contiguous, is `value`.
  Saved(const Var& x, Tensor value) {
    if (x.remade())
      remade_ = x.remade();
    else
      *this = Saved(std::move(value));
  }
  const Tensor& get() const {
    if (remade_) return made_again();
    NIBBLE_CHECK(!tensor_.defined() || tensor_.version() == version_, "backward",
                 "a saved tensor was modified in place after the forward pass: {}",
                 describe(tensor_));
    return tensor_;
  }
  operator const Tensor&() const { return get(); }  // NOLINT
  bool defined() const { return remade_ || tensor_.defined(); }

 private:
  const Tensor& made_again() const;
  Tensor tensor_;
  std::uint32_t version_ = 0;
  std::shared_ptr<Remade> remade_;
};

// Registers a differentiable operation. `Node` has `static constexpr const char* name` and
// `void backward(Grads&) const`; `make()` builds it with exactly what backward needs and runs only
// when a tape is active and an input is tracked.
template <class Node, class Make>
Var record(std::span<const Var* const> inputs, Value output, Make&& make) {
  Tape* tape = Tape::active();
  if (!tape) UsedParameters::note(inputs);
  if (!tape || !Tape::any_tracked(inputs)) return Var(std::move(output));
  static constexpr OpInfo kInfo{
      Node::name,
      [](const void* state, Grads& grads) { static_cast<const Node*>(state)->backward(grads); },
      [](void* state) { static_cast<Node*>(state)->~Node(); }};
  void* state = tape->arena().allocate(sizeof(Node), alignof(Node));
  new (state) Node(std::forward<Make>(make)());
  return tape->append(kInfo, state, inputs, std::move(output));
}
template <class Node, class Make>
Var record(std::initializer_list<const Var*> inputs, Value output, Make&& make) {
  return record<Node>(std::span(inputs.begin(), inputs.size()), std::move(output),
                      std::forward<Make>(make));
}

}  // namespace nibble
