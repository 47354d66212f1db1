// Optimizer: groups of parameters, named encoded states, and one update a step. Checkpointing,
// memory accounting and inspection work for any subclass, because states are named and carry their
// codec.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "autograd/parameter.h"
#include "optim/codec.h"
#include "tensor/step_state.h"

namespace nibble {

struct ParameterGroup {
  std::vector<Parameter*> parameters;
  double lr_scale = 1;      // times the step's learning rate
  double weight_decay = 0;  // decoupled
};

// A state slot of a subclass: "m", "v". Parameters under `min_elements`, and those that `eligible`
// refuses, keep the state in f32 (bitsandbytes' and torchao's rule for small tensors).
struct StateSlot {
  std::string name;
  CodecPtr codec = dense_codec();
  std::int64_t min_elements = 4096;
  std::function<bool(const Parameter&)> eligible = nullptr;  // null: all
};

class Optimizer {
 public:
  Optimizer(std::vector<ParameterGroup> groups, std::vector<StateSlot> slots, std::uint64_t seed);
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  virtual std::string name() const = 0;
  // Updates every parameter that has a gradient, then forgets the gradients. Reads lr, clip factor
  // and the bad flag from `state`; when that is set nothing changes and the step is counted as
  // skipped.
  void step(StepState& state);
  void zero_grad();

  const std::vector<ParameterGroup>& groups() const { return groups_; }
  std::vector<Parameter*> parameters() const;
  std::uint64_t updates() const;  // made so far, skipped steps not counted
  std::uint64_t skipped() const;
  // Everything a checkpoint must hold: "PARAMETER/m.codes", …, and the counters "optimizer/…". The
  // tensors are the live ones; whoever overwrites them restores the state.
  std::vector<std::pair<std::string, Tensor>> state_tensors() const;
  // Slot name → codec name by parameter, for checkpoints and inspection.
  std::string codec_name(const Parameter& p, std::size_t slot) const;
  std::int64_t state_bytes() const;

 protected:
  // What one update works on, decoded to f32 (f64 is not used): matrices [rows, cols].
  struct Update {
    Parameter& parameter;
    const Tensor& gradient;       // as stored, unclipped
    Tensor& weight;               // updated in place, then stored
    std::vector<Tensor>& states;  // by slot, updated in place, then encoded
    float lr;                     // the step's times the group's
    float clip;                   // factor on the gradient
    double weight_decay;
    std::uint64_t t;  // number of this update, from 1
  };
  virtual void update(Update& u) = 0;
  virtual void begin_step(std::uint64_t /*t*/) {}
  // Extra counters that must survive a resume (bias-correction powers); shared with
  // state_tensors().
  Tensor& counter(const std::string& name);
  Tensor& add_counter(const std::string& name, double initial);

 private:
  struct Entry {
    Parameter* parameter;
    std::size_t group;
    std::vector<CodecPtr> codecs;
    std::vector<EncodedState> states;
  };
  void update_entry(Entry& entry, const StepScalars& scalars, std::uint64_t t);
  void store_weight(Parameter& p, const Tensor& weight, std::uint64_t t);

  std::vector<ParameterGroup> groups_;
  std::vector<StateSlot> slots_;
  std::vector<Entry> entries_;
  std::map<std::string, Tensor> counters_;
  std::uint64_t seed_;
};

// Sets state.clip so that the global norm of all gradients is at most max_norm (0: no clipping),
// marks the state bad when the norm is not finite, and returns the norm before clipping. Fixed
// order.
double clip_gradients(const std::vector<Parameter*>& parameters, double max_norm, StepState& state);

// How a parameter is stored between steps. Bf16 and Int8 keep no f32 copy; updates round
// stochastically. Int8 (row scales) applies to matrices, others stay as they are.
void set_weight_storage(Parameter& p, DType dtype);
void set_weight_storage_int8(Parameter& p);

}  // namespace nibble
