#include "tensor/storage.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <new>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "tensor/block_space.h"
#include "tensor/held_memory.h"
#include "tensor/memory_guard.h"
#include "tensor/out_of_memory.h"

#ifdef NIBBLE_CUDA_BACKEND
#include "tensor/cuda/arena.h"
#include "tensor/cuda/context.h"
#include "tensor/cuda/graph.h"
#endif

namespace nibble {
namespace {

// A GPU's blocks above this are cut to size from one range of addresses (BlockSpace), others from
// slabs, so that they cut nothing up. Meta's lie where a GPU's would, with nothing behind them.
constexpr std::int64_t kSmall = 256 << 10;
constexpr std::int64_t kSlab = 2 << 20;  // what a cudaMalloc takes, and it synchronises
// Meta's addresses are none that a processor has. A tensor from kBeyondMeta on (a wrong size, which
// an error will tell) has none: addresses must not overflow.
constexpr std::uintptr_t kMetaSlabs = std::uintptr_t{1} << 61;
constexpr std::int64_t kBeyondMeta = std::int64_t{1} << 48;
bool is_cut(std::int64_t size, Device device) { return !device.is_cpu() && size > kSmall; }

// Rounds up to an eighth of a power of two, so that near-equal sizes share a free list. Blocks of a
// GPU begin at multiples of 512 bytes, as cudaMalloc's do.
std::int64_t block_size(std::int64_t bytes, Device device) {
  const std::int64_t kMin = device.is_cpu() ? 64 : 512;
  if (bytes <= kMin) return kMin;
  if (is_cut(bytes, device)) return (bytes + kMin - 1) / kMin * kMin;
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

struct DeviceHeap {
  MemoryStats total;
  std::int64_t limit = 0;  // of total.current; 0: none
  std::vector<MemoryStats> by_scope;
  FreeLists free;
  std::unordered_map<int, Pool> pools;
  std::unique_ptr<BlockSpace> large;  // of a GPU or Meta, from its first use
  std::int64_t slabs = 0;
  std::int64_t most_held = 0;  // since reset_peak_memory
  std::int64_t held() const { return slabs * kSlab + (large ? large->held() : 0); }
};

// The pool that this thread allocates from; 0: none.
struct ActivePool {
  Device device = kCpu;
  int id = 0;
};
thread_local ActivePool t_pool;
int active_pool(Device device) { return t_pool.id && t_pool.device == device ? t_pool.id : 0; }

class Heap {
 public:
  std::byte* allocate(std::int64_t bytes, Device device, int scope, int& pool) {
    std::byte* block = nullptr;
    pool = active_pool(device);
    std::unique_lock lock(mutex_);
    if (!device.is_meta() || bytes < kBeyondMeta) {
      if (fits_limit(bytes, device)) block = take(block_size(bytes, device), device, pool);
      if (!block) {
        Shortage found = shortage(bytes, device);
        lock.unlock();
        throw OutOfMemory(std::move(found));
      }
    }
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
    DeviceHeap& m = memory(device);
    // Work that was recorded may read it at every replay; a block of another pool is that one's.
    const int active = active_pool(device);
    if (active && !m.pools.contains(pool)) pool = active;
    const bool in_use = active && pool == active;
    const std::int64_t size = block_size(bytes, device);
    if (is_cut(size, device)) return m.large->give(block, size, pool, in_use);
    if (in_use) m.pools.at(pool).used.insert(block);
    lists_of(m, pool)[size].push_back(block);
  }
  int open_pool(Device device) {
    const std::lock_guard lock(mutex_);
    DeviceHeap& m = memory(device);
    m.pools[++pools_opened_];
    if (!device.is_cpu()) large(device).open_pool(pools_opened_);
    return pools_opened_;
  }
  void close_pool(Device device, int id) {
    const std::lock_guard lock(mutex_);
    DeviceHeap& m = memory(device);
    const auto pool = m.pools.find(id);
    append(m.free, pool->second.free, [](std::byte*) { return true; });
    m.pools.erase(pool);
    if (m.large) m.large->close_pool(id);
  }
  void begin_use(Device device, int id) {
    const std::lock_guard lock(mutex_);
    DeviceHeap& m = memory(device);
    // Behind its own blocks, which are taken first: from the back.
    FreeLists& own = m.pools.at(id).free;
    append(m.free, own, [](std::byte*) { return true; });
    std::swap(m.free, own);
  }
  void end_use(Device device, int id) {
    const std::lock_guard lock(mutex_);
    DeviceHeap& m = memory(device);
    Pool& pool = m.pools.at(id);
    append(m.free, pool.free, [&](std::byte* block) { return !pool.used.contains(block); });
    if (m.large) m.large->end_use(id);
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
    DeviceHeap& m = memory(device);
    for (MemoryStats& s : m.by_scope) s.peak = s.at_peak = s.current;
    m.total.peak = m.total.at_peak = m.total.current;
    m.most_held = m.held();
  }
  HeldMemory held(Device device) {
    const std::lock_guard lock(mutex_);
    const DeviceHeap& m = memory(device);
    return {m.held(), m.most_held};
  }
  void release(Device device) {
    const std::lock_guard lock(mutex_);
    release_locked(device);
  }
  void set_limit(Device device, std::int64_t bytes) {
    const std::lock_guard lock(mutex_);
    memory(device).limit = bytes;
  }
  std::optional<DeviceMemory> left(Device device) {
    const std::lock_guard lock(mutex_);
    return left_locked(device);
  }
  [[noreturn]] void refuse(std::int64_t bytes, Device device, std::string purpose) {
    std::unique_lock lock(mutex_);
    Shortage found = shortage(bytes, device);
    lock.unlock();
    found.purpose = std::move(purpose);
    throw OutOfMemory(std::move(found));
  }
  int scope_id(const std::string& name) {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < names_.size(); ++i)
      if (names_[i] == name) return static_cast<int>(i);
    names_.push_back(name);
    return static_cast<int>(names_.size() - 1);
  }

 private:
  static FreeLists& lists_of(DeviceHeap& m, int pool) {
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
    DeviceHeap& m = memory(device);
    if (is_cut(size, device)) return take_cut(size, device, pool);
    std::byte* block = nullptr;
    if (auto& blocks = lists_of(m, pool)[size]; !blocks.empty()) {
      block = blocks.back();
      blocks.pop_back();
    } else {
      block = device.is_cpu() ? take_host(size) : take_small(size, device, pool);
    }
    if (pool && block) m.pools.at(pool).used.insert(block);
    return block;
  }
  // All of take_… return nullptr when there is no memory left. A system that promises more than it
  // has kills the process at the first write, so from time to time it is asked what it has.
  std::byte* take_host(std::int64_t size) {
    constexpr std::int64_t kLookEvery = 64 << 20;
    taken_ += size;
    if (taken_ >= kLookEvery) {
      taken_ = 0;
      if (!host_has(size)) {
        release_locked(kCpu);
        if (!host_has(size)) return nullptr;
      }
    }
    void* block = std::aligned_alloc(64, static_cast<std::size_t>(size));
    if (!block) {
      release_locked(kCpu);
      block = std::aligned_alloc(64, static_cast<std::size_t>(size));
    }
    return static_cast<std::byte*>(block);
  }
  // A sixty-fourth stays for everything that is no tensor.
  static bool host_has(std::int64_t size) {
    const auto memory = host_memory();
    return !memory || size <= memory->free - memory->total / 64;
  }
  BlockSpace& large(Device device) {
    DeviceHeap& m = memory(device);
    if (!m.large) m.large = std::make_unique<BlockSpace>(source_of(device));
    return *m.large;
  }
  std::byte* take_cut(std::int64_t size, Device device, int pool) {
    std::byte* block = or_after_release(device, [&] { return large(device).take(size, pool); });
    keep_most(memory(device));
    return block;
  }
  std::byte* take_small(std::int64_t size, Device device, int pool) {
    DeviceHeap& m = memory(device);
    std::byte* slab = or_after_release(device, [&] { return take_slab(device, m.slabs); });
    if (!slab) return nullptr;
    ++m.slabs;
    keep_most(m);
    auto& blocks = lists_of(m, pool)[size];
    for (std::int64_t at = size; at + size <= kSlab; at += size) blocks.push_back(slab + at);
    return slab;
  }
  static void keep_most(DeviceHeap& m) { m.most_held = std::max(m.most_held, m.held()); }
  static std::unique_ptr<BlockSource> source_of([[maybe_unused]] Device device) {
#ifdef NIBBLE_CUDA_BACKEND
    if (device.is_cuda()) {
      cuda::use(device.index);
      return cuda::make_arena();
    }
#endif
    return make_imaginary_source();
  }
  static std::byte* take_slab(Device device, std::int64_t before) {
    if (device.is_meta()) return reinterpret_cast<std::byte*>(kMetaSlabs + before * kSlab);
#ifdef NIBBLE_CUDA_BACKEND
    cuda::use(device.index);
    return static_cast<std::byte*>(cuda::allocate(std::size_t{kSlab}));
#else
    check_available(device);
    return nullptr;
#endif
  }
  // The cache may hold enough elsewhere; a recording cannot wait for its users. Meta never runs
  // out.
  template <class Take>
  std::byte* or_after_release([[maybe_unused]] Device device, const Take& take) {
    std::byte* block = take();
#ifdef NIBBLE_CUDA_BACKEND
    if (block || cuda::recording()) return block;
    release_locked(device);
    block = take();
#endif
    return block;
  }
  // Gives back what is cached and what pools in use have taken over but not needed.
  void release_locked(Device device) {
    DeviceHeap& m = memory(device);
    FreeLists spare = std::exchange(m.free, {});
    for (auto& entry : m.pools) {
      Pool& pool = entry.second;
      append(spare, pool.free, [&](std::byte* block) { return !pool.used.contains(block); });
    }
    if (device.is_cpu())
      for (auto& [size, blocks] : spare)
        for (std::byte* b : blocks) std::free(b);
    if (device.is_cpu()) return;
    m.free = std::move(spare);  // parts of slabs
#ifdef NIBBLE_CUDA_BACKEND
    if (device.is_cuda()) {
      cuda::use(device.index);
      cuda::wait();  // queued kernels may still use what goes
    }
#endif
    if (m.large) m.large->release();
    // A plan must not depend on those before it.
    if (device.is_meta() && m.total.current == 0 && m.pools.empty()) {
      m.free.clear();
      m.slabs = 0;
    }
  }
  DeviceHeap& memory(Device device) {
    return memory_[static_cast<int>(device.kind) * 64 + device.index];
  }
  bool fits_limit(std::int64_t bytes, Device device) {
    const DeviceHeap& m = memory(device);
    return m.limit == 0 || m.total.current + bytes <= m.limit;
  }
  std::optional<DeviceMemory> left_locked(Device device) {
    std::optional<DeviceMemory> left = device.is_cpu() ? host_memory() : std::nullopt;
#ifdef NIBBLE_CUDA_BACKEND
    if (device.is_cuda()) {
      cuda::use(device.index);
      const auto [free, total] = cuda::memory_info();
      left = {static_cast<std::int64_t>(free), static_cast<std::int64_t>(total)};
    }
#endif
    const DeviceHeap& m = memory(device);
    if (m.limit == 0) return left;
    const std::int64_t rest = std::max<std::int64_t>(m.limit - m.total.current, 0);
    if (!left) return DeviceMemory{rest, m.limit};
    return DeviceMemory{std::min(left->free, rest), std::min(left->total, m.limit)};
  }
  Shortage shortage(std::int64_t bytes, Device device) {
    Shortage found{.device = device, .asked = bytes, .memory = left_locked(device)};
    const auto& rows = memory(device).by_scope;
    for (std::size_t i = 0; i < rows.size(); ++i) found.in_use[names_[i]] += rows[i].current;
    return found;
  }
  void count(Device device, int scope, std::int64_t bytes, std::int64_t allocations) {
    DeviceHeap& m = memory(device);
    if (m.by_scope.size() < names_.size()) m.by_scope.resize(names_.size());
    for (MemoryStats* s : {&m.total, &m.by_scope[static_cast<std::size_t>(scope)]}) {
      s->current += bytes;
      s->allocations += allocations;
      if (s->current > s->peak) s->peak = s->current;
    }
    if (bytes <= 0 || m.total.current != m.total.peak) return;
    m.total.at_peak = m.total.current;
    for (MemoryStats& s : m.by_scope) s.at_peak = s.current;
  }

  std::mutex mutex_;
  std::unordered_map<int, DeviceHeap> memory_;
  std::vector<std::string> names_{""};
  int pools_opened_ = 0;
  std::int64_t taken_ = 0;  // bytes from the system since it was last asked what it has
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
HeldMemory held_memory(Device device) { return heap().held(device); }
void release_cached_memory(Device device) { heap().release(device); }

void set_memory_limit(Device device, std::int64_t bytes) {
  NIBBLE_CHECK(bytes >= 0, "memory limit", "got {} bytes, expected at least 0", bytes);
  heap().set_limit(device, bytes);
}
std::optional<DeviceMemory> device_memory(Device device) {
  check_available(device);
  return heap().left(device);
}
void throw_out_of_memory(Device device, std::int64_t bytes, std::string purpose) {
  heap().refuse(bytes, device, std::move(purpose));
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
  data_ = MemoryGuard::allocate(bytes, device);
  if (!data_) data_ = heap().allocate(bytes, device, scope_, pool_);
}
Storage::~Storage() {
  if (!MemoryGuard::release(data_)) heap().free(data_, bytes_, device_, scope_, pool_);
}

}  // namespace nibble
