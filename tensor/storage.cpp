#include "tensor/storage.h"

#include <bit>
#include <cstdlib>
#include <mutex>
#include <new>
#include <unordered_map>
#include <unordered_set>
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

// Blocks by size. On a GPU a freed one may be handed out while kernels that use it are queued: all
// work of a device is ordered on one stream.
using FreeLists = std::unordered_map<std::int64_t, std::vector<std::byte*>>;

struct Pool {
  FreeLists free;
  std::unordered_set<std::byte*> used;  // handed out or freed while the pool was in use
};

struct DeviceMemory {
  MemoryStats total;
  std::vector<MemoryStats> by_scope;
  FreeLists free;
  std::unordered_map<int, Pool> pools;
};

// The pool that this thread allocates from; 0: none.
struct ActivePool {
  Device device = kCpu;
  int id = 0;
};
thread_local ActivePool t_pool;
int active_pool(Device device) { return t_pool.id && t_pool.device == device ? t_pool.id : 0; }

#ifdef NIBBLE_CUDA_BACKEND
std::string gib(std::int64_t bytes) {
  return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / (1 << 30));
}
#endif

class Heap {
 public:
  std::byte* allocate(std::int64_t bytes, Device device, int scope, int& pool) {
    std::byte* block = nullptr;
    const std::int64_t size = block_size(bytes, device);
    pool = active_pool(device);
    const std::lock_guard lock(mutex_);
    if (!device.is_meta()) block = take(size, device, pool);
    count(device, scope, bytes, +1);
    return block;
  }
  void free(std::byte* block, std::int64_t bytes, Device device, int scope, int pool) {
    const std::lock_guard lock(mutex_);
    count(device, scope, -bytes, 0);
    if (!block) return;
#ifdef NIBBLE_SANITIZED
    if (device.is_cpu()) {
      std::free(block);
      return;
    }
#endif
    DeviceMemory& m = memory(device);
    if (const int active = active_pool(device)) {
      pool = active;  // work that was recorded may read it at every replay
      m.pools.at(pool).used.insert(block);
    }
    lists_of(m, pool)[block_size(bytes, device)].push_back(block);
  }
  int open_pool(Device device) {
    const std::lock_guard lock(mutex_);
    memory(device).pools[++pools_opened_];
    return pools_opened_;
  }
  void close_pool(Device device, int id) {
    const std::lock_guard lock(mutex_);
    DeviceMemory& m = memory(device);
    const auto pool = m.pools.find(id);
    append(m.free, pool->second.free, [](std::byte*) { return true; });
    m.pools.erase(pool);
  }
  void begin_use(Device device, int id) {
    const std::lock_guard lock(mutex_);
    DeviceMemory& m = memory(device);
    append(m.pools.at(id).free, m.free, [](std::byte*) { return true; });
  }
  void end_use(Device device, int id) {
    const std::lock_guard lock(mutex_);
    DeviceMemory& m = memory(device);
    Pool& pool = m.pools.at(id);
    append(m.free, pool.free, [&](std::byte* block) { return !pool.used.contains(block); });
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
  static FreeLists& lists_of(DeviceMemory& m, int pool) {
    const auto it = m.pools.find(pool);
    return it == m.pools.end() ? m.free : it->second.free;
  }
  // Moves the blocks that `moves` picks.
  template <class Predicate>
  static void append(FreeLists& to, FreeLists& from, Predicate moves) {
    for (auto& [size, blocks] : from)
      std::erase_if(blocks, [&, &target = to[size]](std::byte* block) {
        if (!moves(block)) return false;
        target.push_back(block);
        return true;
      });
  }
  std::byte* take(std::int64_t size, Device device, int pool) {
    DeviceMemory& m = memory(device);
    std::byte* block = nullptr;
    if (auto& blocks = lists_of(m, pool)[size]; !blocks.empty()) {
      block = blocks.back();
      blocks.pop_back();
    } else {
      block = device.is_cpu() ? take_host(size) : take_cuda(size, device, pool);
    }
    if (pool) m.pools.at(pool).used.insert(block);
    return block;
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

  std::byte* take_cuda(std::int64_t size, Device device, int pool) {
    cuda::use(device.index);
    if (size > kSmall) return take_whole(size, device);
    std::byte* slab = take_whole(kSlab, device);
    auto& blocks = lists_of(memory(device), pool)[size];
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
  static std::byte* take_cuda(std::int64_t, Device device, int) {
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
  int pools_opened_ = 0;
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

MemoryPool::MemoryPool(Device device) : device_(device), id_(heap().open_pool(device)) {}
MemoryPool::~MemoryPool() { heap().close_pool(device_, id_); }
MemoryPool::Use::Use(MemoryPool& pool) : pool_(pool) {
  NIBBLE_CHECK(!t_pool.id, "memory pool", "one is in use already on this thread");
  heap().begin_use(pool.device_, pool.id_);
  t_pool = {pool.device_, pool.id_};
}
MemoryPool::Use::~Use() {
  t_pool = {};
  heap().end_use(pool_.device_, pool_.id_);
}

Storage::Storage(std::int64_t bytes, Device device)
    : bytes_(bytes), device_(device), scope_(t_scope) {
  check_available(device);
  data_ = heap().allocate(bytes, device, scope_, pool_);
}
Storage::~Storage() { heap().free(data_, bytes_, device_, scope_, pool_); }

}  // namespace nibble
