// What the allocator has of a GPU's memory: tensors, free blocks between them, ends of pieces.
#pragma once

#include <cstdint>

#include "tensor/device.h"

namespace nibble {

// Of Meta: what a GPU's allocator would have, by the same code, for the same tensors in the same
// order (release_cached_memory and MemoryPool included); kernels' scratch is not among them. Of the
// CPU, whose blocks the system has: 0.
struct HeldMemory {
  std::int64_t now = 0;
  std::int64_t most = 0;  // since reset_peak_memory
};
HeldMemory held_memory(Device device);

}  // namespace nibble
