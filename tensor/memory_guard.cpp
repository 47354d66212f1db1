#include "tensor/memory_guard.h"

#include <atomic>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "tensor/storage.h"

#ifdef NIBBLE_CUDA_BACKEND
#include "tensor/cuda/context.h"
#endif

namespace nibble {
namespace {

constexpr std::int64_t kMargin = MemoryGuard::kMargin;

std::atomic<MemoryGuard*> g_guard = nullptr;
std::atomic<std::int64_t> g_live = 0;  // guarded blocks in use: without any nothing is looked up
std::mutex g_mutex;                    // of all that is here
thread_local bool t_in_frame = false;  // a frame is a Storage as well, and asks again

using Frame = Ref<Storage>;                                   // margin, guarded bytes, margin
std::unordered_map<const std::byte*, Frame>& live_frames() {  // by the guarded bytes
  static auto* frames = new std::unordered_map<const std::byte*, Frame>;
  return *frames;
}

void set_bytes(std::byte* to, int value, std::int64_t bytes, Device device) {
#ifdef NIBBLE_CUDA_BACKEND
  if (device.is_cuda()) {
    cuda::use(device.index);
    NIBBLE_CUDA_CHECK(cudaMemsetAsync(to, value, static_cast<std::size_t>(bytes), cuda::stream()));
    return;
  }
#endif
  (void)device;
  std::memset(to, value, static_cast<std::size_t>(bytes));
}

std::vector<std::byte> host_bytes(const std::byte* from, std::int64_t bytes, Device device) {
  std::vector<std::byte> copy(static_cast<std::size_t>(bytes));
#ifdef NIBBLE_CUDA_BACKEND
  if (device.is_cuda()) {
    cuda::use(device.index);
    cuda::copy_to_host(copy.data(), from, copy.size());
    return copy;
  }
#endif
  (void)device;
  std::memcpy(copy.data(), from, copy.size());
  return copy;
}

// "3 bytes changed, first the one at 8", counted from the margin's own start; "" for a whole one.
std::string changes(const std::vector<std::byte>& margin) {
  std::size_t count = 0, first = 0;
  for (std::size_t i = margin.size(); i-- > 0;)
    if (margin[i] != static_cast<std::byte>(MemoryGuard::kPattern)) ++count, first = i;
  return count == 0 ? "" : fmt::format("{} bytes changed, first the one at {}", count, first);
}

}  // namespace

struct MemoryGuard::Blocks {
  std::vector<Frame> frames;
};

MemoryGuard::MemoryGuard(Device device) : device_(device), blocks_(std::make_unique<Blocks>()) {
  NIBBLE_CHECK(!device.is_meta(), "memory guard", "got {}, expected a device with memory", device);
  check_available(device);
  const std::lock_guard lock(g_mutex);
  NIBBLE_CHECK(!g_guard.load(), "memory guard", "got a second guard, expected one at a time");
  g_guard = this;
}

MemoryGuard::~MemoryGuard() {
  const std::lock_guard lock(g_mutex);
  g_guard = nullptr;
}

std::int64_t MemoryGuard::blocks() const {
  const std::lock_guard lock(g_mutex);
  return static_cast<std::int64_t>(blocks_->frames.size());
}

std::vector<std::string> MemoryGuard::damage() const {
  const std::lock_guard lock(g_mutex);
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < blocks_->frames.size(); ++i) {
    const Storage& frame = *blocks_->frames[i];
    const std::int64_t inner = frame.bytes() - 2 * kMargin;
    const std::string before = changes(host_bytes(frame.data(), kMargin, device_));
    const std::string after = changes(host_bytes(frame.data() + kMargin + inner, kMargin, device_));
    if (!before.empty())
      lines.push_back(fmt::format("block {} of {} bytes: in the {} bytes before it {}", i, inner,
                                  kMargin, before));
    if (!after.empty())
      lines.push_back(fmt::format("block {} of {} bytes: in the {} bytes after it {}", i, inner,
                                  kMargin, after));
  }
  return lines;
}

std::byte* MemoryGuard::allocate(std::int64_t bytes, Device device) {
  if (!g_guard.load(std::memory_order_relaxed) || t_in_frame) return nullptr;
  Frame frame;  // before the lock: its end, when something throws, takes the lock too
  const std::lock_guard lock(g_mutex);
  const MemoryGuard* guard = g_guard;
  if (!guard || guard->device_ != device) return nullptr;
  t_in_frame = true;
  try {
    frame = Frame::make(bytes + 2 * kMargin, device);
  } catch (...) {
    t_in_frame = false;
    throw;
  }
  t_in_frame = false;
  set_bytes(frame->data(), kPattern, frame->bytes(), device);
  std::byte* data = frame->data() + kMargin;
  set_bytes(data, kUnwritten, bytes, device);
  guard->blocks_->frames.push_back(frame);
  live_frames().emplace(data, std::move(frame));
  ++g_live;
  return data;
}

bool MemoryGuard::release(std::byte* data) {
  if (g_live.load(std::memory_order_relaxed) == 0) return false;
  Frame frame;  // gives its memory back after the lock
  const std::lock_guard lock(g_mutex);
  const auto found = live_frames().find(data);
  if (found == live_frames().end()) return false;
  frame = std::move(found->second);
  live_frames().erase(found);
  --g_live;
  return true;
}

}  // namespace nibble
