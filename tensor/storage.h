// Storage: reference-counted bytes on a device, counted by device and by memory scope.
// CPU blocks are 64-byte aligned and cached by size, because fresh pages cost more than most
// kernels.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "tensor/device.h"
#include "tensor/host_memory.h"
#include "tensor/ref.h"

namespace nibble {

struct MemoryStats {
  std::int64_t current = 0;      // bytes held by live tensors
  std::int64_t peak = 0;         // its maximum since reset_peak_memory
  std::int64_t at_peak = 0;      // bytes held when the device's total was last at its peak
  std::int64_t allocations = 0;  // count since the start
};
MemoryStats memory_stats(Device device);
// Live and peak bytes by the MemoryScope in which they were allocated ("" outside any). Their
// `at_peak` add up to the total's peak.
std::map<std::string, MemoryStats> memory_by_scope(Device device);
void reset_peak_memory(Device device);
void release_cached_memory(Device device);
// What the machine's or a GPU's memory has left, cached blocks not counted, and the limit below;
// nothing where it is not known.
std::optional<DeviceMemory> device_memory(Device device);
// Tensors of the device may hold at most this much, as if it had no more; 0: no limit.
void set_memory_limit(Device device, std::int64_t bytes);

// Names the allocations of a region: MemoryScope scope{"moments"}. Scopes nest; the innermost wins.
// The names that training uses are in README.md.
class MemoryScope {
 public:
  explicit MemoryScope(const char* name);
  ~MemoryScope();
  MemoryScope(const MemoryScope&) = delete;
  MemoryScope& operator=(const MemoryScope&) = delete;

 private:
  int previous_;
};

// Blocks that only their own allocations share: what a recorded graph works in must not be handed
// to anybody between two replays. A block that is freed meanwhile comes back to its pool; when the
// pool ends, to everybody.
class MemoryPool {
 public:
  explicit MemoryPool(Device device);
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  // While it lives, this thread's allocations on the device come from the pool, and what the thread
  // frees stays in it. It begins with the blocks that the device has cached; those that were not
  // needed go back at the end.
  class Use {
   public:
    explicit Use(MemoryPool& pool);
    ~Use();
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    MemoryPool& pool_;
  };

 private:
  Device device_;
  int id_;
};

class Storage {
 public:
  // Uninitialised; Meta holds no memory. Throws OutOfMemory (out_of_memory.h).
  Storage(std::int64_t bytes, Device device);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  std::byte* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  // Rises with every in-place write, so that a tensor saved for backward can tell.
  std::uint32_t version() const { return version_.load(std::memory_order_relaxed); }
  void bump_version() { version_.fetch_add(1, std::memory_order_relaxed); }

  std::atomic<std::uint32_t> refs{0};

 private:
  std::byte* data_ = nullptr;
  std::int64_t bytes_;
  Device device_;
  int scope_, pool_ = 0;
  std::atomic<std::uint32_t> version_{0};
};

}  // namespace nibble
