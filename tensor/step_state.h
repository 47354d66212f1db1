// StepState: what changes from step to step and is read by kernels. It lives where the kernels run
// (design.md, amendment 16), so that a captured step needs nothing from the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "tensor/device.h"
#include "tensor/ref.h"
#include "tensor/storage.h"

namespace nibble {

struct StepScalars {
  std::uint32_t bad = 0;  // sticky: a not-finite loss or gradient was seen; updates become no-ops
  // What begin() writes, in one copy.
  std::uint32_t step = 0;  // optimizer updates begun; keys of random draws read it
  float lr = 0;            // of this step, before a group's multiplier
  float clip = 1;          // factor that global-norm clipping puts on gradients
  double loss = 0;         // mean over the micro-batches so far (accumulate_loss)
  double norm = 0;         // of all gradients, before clipping (clip_gradients)
};

class StepState {
 public:
  explicit StepState(Device device = kCpu);
  void begin(std::uint32_t step, double lr);  // bad stays as it is; the rest starts anew
  StepScalars read() const;                   // synchronises
  void set_clip(double factor);
  void clear_bad();
  void mark_bad();
  // Runs the operations of `body` unless the step is bad. While a graph is recorded the device
  // decides, at every replay; otherwise this reads the flag (and synchronises). Host effects of
  // `body` must not depend on whether it runs.
  void unless_bad(const std::function<void()>& body) const;
  // Where the kernels run: host memory for the CPU, device memory for a GPU.
  StepScalars* scalars() { return pointer(); }
  const StepScalars* scalars() const { return pointer(); }
  const std::uint32_t* step_pointer() const { return &pointer()->step; }
  Device device() const { return device_; }
  // Where kernels that work on the scalars run: the device, for Meta the CPU.
  Device home() const { return device_.is_meta() ? kCpu : device_; }

 private:
  StepScalars* pointer() const { return reinterpret_cast<StepScalars*>(storage_->data()); }
  void write(std::size_t offset, const void* value, std::size_t bytes);

  Device device_;
  Ref<Storage> storage_;
};

}  // namespace nibble
