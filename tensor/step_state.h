// StepState: what changes from step to step and is read by kernels. It lives where the kernels run
// (design.md, amendment 16), so that a captured step needs nothing from the host.
#pragma once

#include <cstdint>
#include <memory>

#include "tensor/device.h"

namespace nibble {

struct StepScalars {
  std::uint32_t step = 0;  // optimizer updates begun; keys of random draws read it
  std::uint32_t bad = 0;   // sticky: a not-finite loss or gradient was seen; updates become no-ops
  float lr = 0;            // of this step, before a group's multiplier
  float clip = 1;          // factor that global-norm clipping puts on gradients
};

class StepState {
 public:
  explicit StepState(Device device = kCpu);
  void begin(std::uint32_t step, double lr);  // bad stays as it is; clip becomes 1
  StepScalars read() const;                   // synchronises
  void clear_bad();
  void mark_bad();
  StepScalars* scalars() { return scalars_.get(); }
  const StepScalars* scalars() const { return scalars_.get(); }
  const std::uint32_t* step_pointer() const { return &scalars_->step; }
  Device device() const { return device_; }

 private:
  Device device_;
  std::unique_ptr<StepScalars> scalars_;
};

}  // namespace nibble
