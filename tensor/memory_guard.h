// MemoryGuard finds what a kernel writes beside its tensors and what it leaves unwritten; for tests
// and for hunting a defect. The allocator asks it, so it sees every buffer that an op makes for
// itself: outputs, gradients, scratch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tensor/device.h"

namespace nibble {

// While one lives, every Storage made on its device (by any thread) lies between kMargin bytes of
// kPattern and begins as bytes of kUnwritten: NaN in f64, f32 and bf16, -1 in integers. Blocks are
// kept until the guard goes, so late writes are seen too. One at a time; throws
// Error("memory guard") when another lives, or for Meta, which has no memory.
class MemoryGuard {
 public:
  static constexpr std::int64_t kMargin = 512;  // keeps the alignment of blocks on any device
  static constexpr int kPattern = 0xa5, kUnwritten = 0xff;

  explicit MemoryGuard(Device device);
  ~MemoryGuard();
  MemoryGuard(const MemoryGuard&) = delete;
  MemoryGuard& operator=(const MemoryGuard&) = delete;

  std::int64_t blocks() const;  // how many it has seen
  // A line for every block with a changed margin, in order of allocation; empty is well. Waits for
  // the device and copies from it.
  std::vector<std::string> damage() const;

  // For Storage: guarded bytes, nullptr where no guard watches the device; and whether `data` were
  // such, which are then given back (also after the guard's end).
  static std::byte* allocate(std::int64_t bytes, Device device);
  static bool release(std::byte* data);

 private:
  struct Blocks;
  Device device_;
  std::unique_ptr<Blocks> blocks_;
};

}  // namespace nibble
