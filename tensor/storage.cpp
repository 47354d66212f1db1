#include "tensor/storage.h"

#include <bit>
#include <cstdlib>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#ifdef NIBBLE_CUDA_BACKEND
#include "tensor/cuda/context.h"
#endif

namespace nibble {
namespace {

// Rounds up to an eighth of a power of two, so that near-equal sizes share a free list. Blocks of a
// GPU begin at multiples of 512 bytes, as cudaMalloc's do.
std::int64_t block_size(std::int64_t bytes, Device device) {
  const std::int64_t kMin = device.is_cuda() ? 512 : 64;
  if (bytes <= kMin) return kMin;
  const auto step =
      static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(bytes - 1)) / 8);
  const std::int64_t grain = step < kMin ? kMin : step;
  return (bytes + grain - 1) / grain * grain;
}

struct DeviceMemory {
  MemoryStats total;
  std::vector<MemoryStats> by_scope;
  // Blocks by size. On a GPU a freed one may be handed out while kernels that use it are queued:
  // all work of a device is ordered on one stream.
  std::unordered_map<std::int64_t, std::vector<std::byte*>> free;
};

#ifdef NIBBLE_CUDA_BACKEND
std::string gib(std::int64_t bytes) {
  return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / (1 << 30));
}
#endif

class Heap {
 public:
  std::byte* allocate(std::int64_t bytes, Device device, int scope) {
    std::byte* block = nullptr;
    const std::int64_t size = block_size(bytes, device);
    const std::lock_guard lock(mutex_);
    if (!device.is_meta()) block = take(size, device);
    count(device, scope, bytes, +1);
    return block;
  }
  void free(std::byte* block, std::int64_t bytes, Device device, int scope) {
    const std::lock_guard lock(mutex_);
    count(device, scope, -bytes, 0);
    if (!block) return;
#ifdef NIBBLE_SANITIZED
    if (device.is_cpu()) {
      std::free(block);
      return;
    }
#endif
    memory(device).free[block_size(bytes, device)].push_back(block);
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
  void release(Device device) {
    const std::lock_guard lock(mutex_);
    release_locked(device);
  }
  int scope_id(const std::string& name) {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < names_.size(); ++i)
      if (names_[i] == name) return static_cast<int>(i);
    names_.push_back(name);
    return static_cast<int>(names_.size() - 1);
  }

 private:
  std::byte* take(std::int64_t size, Device device) {
    auto& blocks = memory(device).free[size];
    if (!blocks.empty()) {
      std::byte* block = blocks.back();
      blocks.pop_back();
      return block;
    }
    return device.is_cpu() ? take_host(size) : take_cuda(size, device);
  }
  static std::byte* take_host(std::int64_t size) {
    void* block = std::aligned_alloc(64, static_cast<std::size_t>(size));
    NIBBLE_CHECK(block, "allocate",
                 "out of memory on cpu: {} bytes were asked for; "
                 "a smaller batch or checkpointing per block needs less",
                 size);
    return static_cast<std::byte*>(block);
  }
#ifdef NIBBLE_CUDA_BACKEND
  // Small blocks are cut from slabs, because every cudaMalloc takes 2 MiB and a synchronisation.
  static constexpr std::int64_t kSlab = 2 << 20, kSmall = 256 << 10;

  std::byte* take_cuda(std::int64_t size, Device device) {
    cuda::use(device.index);
    if (size > kSmall) return take_whole(size, device);
    std::byte* slab = take_whole(kSlab, device);
    auto& blocks = memory(device).free[size];
    for (std::int64_t at = size; at + size <= kSlab; at += size) blocks.push_back(slab + at);
    return slab;
  }
  std::byte* take_whole(std::int64_t size, Device device) {
    void* block = cuda::allocate(static_cast<std::size_t>(size));
    if (!block) {  // the cache may hold enough in blocks of other sizes
      release_locked(device);
      block = cuda::allocate(static_cast<std::size_t>(size));
    }
    if (!block) {
      const auto [free, all] = cuda::memory_info();
      fail(
          "allocate",
          "out of memory on {}: {} were asked for, {} are in tensors, {} of {} are free; a smaller "
          "batch or checkpointing per block needs less",
          device, gib(size), gib(memory(device).total.current),
          gib(static_cast<std::int64_t>(free)), gib(static_cast<std::int64_t>(all)));
    }
    return static_cast<std::byte*>(block);
  }
#else
  static std::byte* take_cuda(std::int64_t, Device device) {
    check_available(device);
    return nullptr;
  }
#endif
  void release_locked(Device device) {
    auto& lists = memory(device).free;
    if (device.is_cpu()) {
      for (auto& [size, blocks] : lists)
        for (std::byte* b : blocks) std::free(b);
      lists.clear();
    }
#ifdef NIBBLE_CUDA_BACKEND
    if (!device.is_cuda()) return;
    cuda::use(device.index);
    cuda::wait();  // queued kernels may still use them
    for (auto& [size, blocks] : lists) {
      if (size <= kSmall) continue;  // parts of slabs
      for (std::byte* b : blocks) cuda::free(b);
      blocks.clear();
    }
#endif
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
void release_cached_memory(Device device) { heap().release(device); }

std::optional<std::int64_t> free_memory(Device device) {
#ifdef NIBBLE_CUDA_BACKEND
  if (device.is_cuda()) {
    cuda::use(device.index);
    return static_cast<std::int64_t>(cuda::memory_info().free);
  }
#else
  check_available(device);
#endif
  return std::nullopt;
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
