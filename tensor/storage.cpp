#include "tensor/storage.h"

#include <bit>
#include <cstdlib>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

namespace nibble {
namespace {

// Rounds up to an eighth of a power of two, so that near-equal sizes share a free list.
std::int64_t block_size(std::int64_t bytes) {
  constexpr std::int64_t kMin = 64;
  if (bytes <= kMin) return kMin;
  const auto step =
      static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(bytes - 1)) / 8);
  const std::int64_t grain = step < kMin ? kMin : step;
  return (bytes + grain - 1) / grain * grain;
}

struct DeviceMemory {
  MemoryStats total;
  std::vector<MemoryStats> by_scope;
};

class Heap {
 public:
  std::byte* allocate(std::int64_t bytes, Device device, int scope) {
    std::byte* block = nullptr;
    const std::int64_t size = block_size(bytes);
    const std::lock_guard lock(mutex_);
    if (device.is_cpu()) block = take(size);
    count(device, scope, bytes, +1);
    return block;
  }
  void free(std::byte* block, std::int64_t bytes, Device device, int scope) {
    const std::lock_guard lock(mutex_);
    count(device, scope, -bytes, 0);
    if (!block) return;
#ifdef NIBBLE_SANITIZED
    std::free(block);
#else
    free_[block_size(bytes)].push_back(block);
#endif
  }
  MemoryStats stats(Device device) {
    const std::lock_guard lock(mutex_);
    return memory(device).total;
  }
  std::map<std::string, MemoryStats> scopes(Device device) {
    const std::lock_guard lock(mutex_);
    std::map<std::string, MemoryStats> out;
    const auto& rows = memory(device).by_scope;
    for (std::size_t i = 0; i < rows.size(); ++i)
      if (rows[i].allocations > 0) out[names_[i]] = rows[i];
    return out;
  }
  void reset_peak(Device device) {
    const std::lock_guard lock(mutex_);
    DeviceMemory& m = memory(device);
    m.total.peak = m.total.current;
    for (MemoryStats& s : m.by_scope) s.peak = s.current;
  }
  void release() {
    const std::lock_guard lock(mutex_);
    for (auto& [size, blocks] : free_)
      for (std::byte* b : blocks) std::free(b);
    free_.clear();
  }
  int scope_id(const std::string& name) {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < names_.size(); ++i)
      if (names_[i] == name) return static_cast<int>(i);
    names_.push_back(name);
    return static_cast<int>(names_.size() - 1);
  }

 private:
  std::byte* take(std::int64_t size) {
    if (const auto it = free_.find(size); it != free_.end() && !it->second.empty()) {
      std::byte* block = it->second.back();
      it->second.pop_back();
      return block;
    }
    void* block = std::aligned_alloc(64, static_cast<std::size_t>(size));
    NIBBLE_CHECK(block, "allocate",
                 "out of memory on cpu: {} bytes were asked for; "
                 "a smaller batch or checkpointing per block needs less",
                 size);
    return static_cast<std::byte*>(block);
  }
  DeviceMemory& memory(Device device) {
    return memory_[static_cast<int>(device.kind) * 64 + device.index];
  }
  void count(Device device, int scope, std::int64_t bytes, std::int64_t allocations) {
    DeviceMemory& m = memory(device);
    if (m.by_scope.size() < names_.size()) m.by_scope.resize(names_.size());
    for (MemoryStats* s : {&m.total, &m.by_scope[static_cast<std::size_t>(scope)]}) {
      s->current += bytes;
      s->allocations += allocations;
      if (s->current > s->peak) s->peak = s->current;
    }
  }

  std::mutex mutex_;
  std::unordered_map<std::int64_t, std::vector<std::byte*>> free_;
  std::unordered_map<int, DeviceMemory> memory_;
  std::vector<std::string> names_{""};
};

// Never destroyed: static tensors may outlive every other static object.
Heap& heap() {
  static Heap* h = new Heap;
  return *h;
}
thread_local int t_scope = 0;

}  // namespace

MemoryStats memory_stats(Device device) { return heap().stats(device); }
std::map<std::string, MemoryStats> memory_by_scope(Device device) { return heap().scopes(device); }
void reset_peak_memory(Device device) { heap().reset_peak(device); }
void release_cached_memory(Device device) {
  if (device.is_cpu()) heap().release();
}

MemoryScope::MemoryScope(const char* name) : previous_(t_scope) { t_scope = heap().scope_id(name); }
MemoryScope::~MemoryScope() { t_scope = previous_; }

Storage::Storage(std::int64_t bytes, Device device)
    : bytes_(bytes), device_(device), scope_(t_scope) {
  check_available(device);
  data_ = heap().allocate(bytes, device, scope_);
}
Storage::~Storage() { heap().free(data_, bytes_, device_, scope_); }

}  // namespace nibble
