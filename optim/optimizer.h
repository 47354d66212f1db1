// Optimizer: groups of parameters, named encoded states, and one update a step. Checkpointing,
// memory accounting and inspection work for any subclass, because states are named and carry their
// codec.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "autograd/parameter.h"
#include "optim/codec.h"
#include "optim/kernels.h"
#include "tensor/step_state.h"

namespace nibble {

struct ParameterGroup {
  std::vector<Parameter*> parameters;
  double lr_scale = 1;      // times the step's learning rate
  double weight_decay = 0;  // decoupled
  GroupRule rule() const { return {lr_scale, weight_decay}; }
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
  // Updates every parameter that has a gradient, then forgets the gradients. lr, clip factor and
  // the bad flag are those of `state`, which lives where the parameters do; when the flag is set
  // nothing changes and the step is counted as skipped. Can be part of a RecordedWork when
  // recordable().
  void step(StepState& state);
  // The same while gradients appear, which then need not be there all at once ("optimizer in
  // backward"; LOMO, Lv et al. 2023): update_now for every parameter whose gradient is complete
  // (Tape::on_grad_ready), which takes it, and finish_updates. Parameters that updates_stored()
  // takes are updated some at a time, when an eighth of all gradients or 256 MiB wait. The bits are
  // step()'s without clipping; max_norm clips each gradient by its own norm (0: none). A loss that
  // is not finite leaves the step out; a gradient that is not marks it bad: its parameter, those
  // updated with it and those that come later keep their values, those before are updated already,
  // and the step counts as both.
  void update_now(Parameter& parameter, StepState& state, double max_norm = 0);
  void finish_updates(StepState& state);
  // Whether update() reads what changes from step to step on the device alone.
  virtual bool recordable() const { return false; }
  // Forgets the gradients, and a step of update_now that an error cut short: to be called then.
  void zero_grad();
  // Parameters on Meta are updated as those of a GPU are, without the scratch of a CPU's updates.
  void plan_for_gpu() { plans_gpu_ = true; }

  const std::vector<ParameterGroup>& groups() const { return groups_; }
  const std::vector<StateSlot>& slots() const { return slots_; }
  std::vector<Parameter*> parameters() const;
  std::uint64_t updates() const;  // made so far, skipped steps not counted; synchronises
  std::uint64_t skipped() const;  // likewise
  // Everything a checkpoint must hold: "PARAMETER/m.codes", …, and the counters "optimizer/…". The
  // tensors are the live ones; whoever overwrites them restores the state.
  std::vector<std::pair<std::string, Tensor>> state_tensors() const;
  // Every state as it is named in checkpoints, "PARAMETER/m", and what its tensors decode to.
  struct State {
    std::string name;
    CodecPtr codec;
    std::int64_t rows, cols;
  };
  std::vector<State> states() const;
  // Slot name → codec name by parameter, for checkpoints and inspection.
  std::string codec_name(const Parameter& p, std::size_t slot) const;
  std::int64_t state_bytes() const;
  // Which parameters are updated apart from the rest, decoded and encoded one by one, and why.
  struct Apart {
    std::string name, reason;
  };
  std::vector<Apart> apart() const;

 protected:
  // What one update works on, decoded to f32 (f64 is not used): matrices [rows, cols].
  struct Update {
    Parameter& parameter;
    const Tensor& gradient;       // as stored, unclipped
    Tensor& weight;               // updated in place, then stored
    std::vector<Tensor>& states;  // by slot, updated in place, then encoded
    const GroupRule& group;
    const StepScalars* step;  // where the kernels run: lr before the group's scale, clip, …
    // The step's lr times the group's, and the factor on the gradient, for updates made of tensor
    // operations; they are not what a recorded step will have (recordable()).
    float lr, clip;
  };
  virtual void update(Update& u) = 0;
  // An optimizer that updates many parameters as they are stored, all in one call: those that
  // stored_update_refusal (stored.h) lets pass. The bits are update()'s. It runs in bad steps too
  // and must then change nothing: a condition around every launch would take longer than it.
  virtual bool updates_stored() const { return false; }
  virtual void update_stored(std::vector<StoredUpdate>& all, const StepScalars* step,
                             const RngKey& draws);
  virtual void begin_step() {}  // before the first update of a step that is not skipped
  // Extra counters that must survive a resume (bias-correction powers); shared with
  // state_tensors(). F64, on home().
  Tensor& counter(const std::string& name);
  Tensor& add_counter(const std::string& name, double initial);
  Device home() const { return home_; }  // of the parameters; the CPU for Meta

 private:
  struct Entry {
    Parameter* parameter;
    std::size_t group;
    std::vector<CodecPtr> codecs;
    std::vector<EncodedState> states;
  };
  void check_home(const StepState& state) const;
  void begin_updates(StepState& state);
  // `begins`: they are the first of the step.
  void update_entries(const std::vector<Entry*>& entries, const StepState& state, bool begins);
  // Its part of a call of update_stored, or the reason why it has none.
  std::variant<StoredUpdate, std::string> stored(const Entry& entry) const;
  void update_all(std::vector<StoredUpdate>& all, const std::vector<Parameter*>& updated,
                  const StepState& state);
  void update_pending(StepState& state);
  void update_entry(Entry& entry, const StepState& state, const StepScalars& host);
  void store_weight(Parameter& p, const Tensor& weight);
  // The draws of an update: (seed, parameter, what for) at the update's number.
  RngKey key(const Parameter& p, std::string_view purpose) const;
  RngKey draws(std::uint32_t site) const;

  std::vector<ParameterGroup> groups_;
  std::vector<StateSlot> slots_;
  std::vector<Entry> entries_;
  std::map<std::string, Tensor> counters_;
  Tensor number_;   // I32: the count of updates as keys read it
  Tensor squares_;  // F64: of the gradients that update_now has met in this step
  // What update_now has taken and not updated yet.
  struct Pending {
    std::vector<StoredUpdate> updates;
    std::vector<Parameter*> parameters;
    std::int64_t bytes = 0;  // of gradients
    double max_norm = 0;
  } pending_;
  std::int64_t batch_bytes_ = 0;  // of gradients, from which on they are updated
  bool updating_ = false;         // between the first update_now of a step and finish_updates
  std::uint64_t seed_;
  Device home_;
  bool plans_gpu_ = false;
};

// Sets state.clip so that the global norm of all gradients is at most max_norm (0: no clipping),
// marks the state bad when the norm is not finite, and returns the norm before clipping. Fixed
// order.
double clip_gradients(const std::vector<Parameter*>& parameters, double max_norm, StepState& state);
// The same without waiting: the norm is state.read().norm once the device is there.
void queue_clip_gradients(const std::vector<Parameter*>& parameters, double max_norm,
                          StepState& state);
// Adds a micro-batch's loss (one element) over `divisor` to state's; marks the step bad when the
// sum is not finite. Does not wait.
void accumulate_loss(StepState& state, const Tensor& loss, double divisor);

// How a parameter is stored between steps. Bf16 and Int8 keep no f32 copy; updates round
// stochastically. Int8 (row scales) applies to matrices, others stay as they are.
void set_weight_storage(Parameter& p, DType dtype);
void set_weight_storage_int8(Parameter& p);

}  // namespace nibble
