// Delayed scaling (Transformer Engine; low-precision-training.md (i)): a tensor's scale comes from
// the ranges it had in earlier steps, so that its codes need no pass over it that finds its range
// first.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quant/qtensor.h"
#include "tensor/step_state.h"

namespace nibble {

// The ranges of a training run's tensors, by name ("blocks.0.mlp.fc1:fprop.lhs"). All of it lies on
// the device and changes by kernels alone, so that a recorded step finds its own.
class ScaleHistory {
 public:
  struct Entry {
    Tensor history;     // F32 [1, steps]: the largest magnitude of each, in a ring
    Tensor now;         // F32 [1]: of this step so far
    bool fresh = true;  // no step has ended yet: the tensor's own range decides
  };

  explicit ScaleHistory(Device device) : device_(device) {}
  // The tensor's entry, made when it is first asked for. Throws Error("scale history") when it
  // has another number of steps.
  Entry& at(std::string_view name, int steps);
  // Once a step, after the last use: what was seen becomes history, unless the step is bad.
  void advance(const StepState& state);
  // What the host learns of a step afterwards. While there was no good one, what advance() found is
  // not kept: a tensor's own range decides again. True when that changes the steps to come.
  bool settle(bool bad);

  // For checkpoints, "scales.NAME": what at() made so far, or is to be made from a checkpoint.
  std::vector<std::pair<std::string, Tensor>> tensors() const;
  // Makes the entry of a checkpoint's tensor [1, steps], whose values the caller then reads in.
  void expect(std::string_view tensor_name, const Shape& shape);

 private:
  Device device_;
  std::map<std::string, Entry, std::less<>> entries_;
  bool settled_ = false;  // a step was good
};

// Codes of x under a spec with calibration.history > 0, by the entry's past ranges; the range of x
// itself is noted for the steps to come. Values beyond the past range saturate. While no step has
// ended the range of x decides, as quantize() would; after steps of zeros alone the scale is 1.
QTensor quantize_delayed(const Tensor& x, const QuantSpec& spec, const RngKey& key,
                         ScaleHistory::Entry& entry);

}  // namespace nibble
