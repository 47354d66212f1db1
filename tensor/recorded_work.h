// Work that is recorded once and replayed: on a GPU a CUDA graph, whose launch costs the host
// microseconds where its kernels one by one cost milliseconds.
#pragma once

#include <functional>
#include <memory>

#include "tensor/device.h"

namespace nibble {

// A replay runs the recorded kernels with the arguments they were recorded with. So what changes
// from replay to replay must lie in tensors that exist before the recording (StepState, batches),
// nothing may be copied between host and device meanwhile (such a copy throws), tensors that the
// work reads must live as long as this object, and those that outlive the recording hold what the
// last replay wrote. Memory taken while recording belongs to
// the object (MemoryPool) and is freed with it.
class RecordedWork {
 public:
  explicit RecordedWork(Device device);  // throws Error("graph") unless it is a GPU
  ~RecordedWork();
  RecordedWork(const RecordedWork&) = delete;
  RecordedWork& operator=(const RecordedWork&) = delete;

  // Whether work on the device can be recorded at all.
  static bool supported(Device device);
  // Runs `work` on the host and records what it would put on the device; nothing runs there.
  void record(const std::function<void()>& work);
  void replay();
  // Runs `work` kernel by kernel in the memory of the recording, which is free between replays.
  // Tensors that `work` leaves behind hold nothing of value after the next replay.
  void run(const std::function<void()>& work);
  bool recorded() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble
