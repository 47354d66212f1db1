#include "tensor/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "tensor/check.h"

namespace nibble {
namespace {

// Workers spin this long before they sleep: between two kernels of a step a wake-up costs more.
constexpr int kSpins = 20000;
thread_local bool t_inside = false;

struct Job {
  std::int64_t n = 0, grain = 1, chunks = 0;
  detail::ChunkFn fn = nullptr;
  void* context = nullptr;
};

class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }
  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::thread& w : workers_) w.join();
  }
  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  void run(const Job& job) {
    const std::lock_guard serial(run_mutex_);
    {
      const std::lock_guard lock(mutex_);
      job_ = job;
      next_.store(0, std::memory_order_relaxed);
      active_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
      error_ = nullptr;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    take_chunks();
    while (active_.load(std::memory_order_acquire) != 0) std::this_thread::yield();
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void take_chunks() {
    t_inside = true;
    for (;;) {
      const std::int64_t c = next_.fetch_add(1, std::memory_order_relaxed);
      if (c >= job_.chunks) break;
      const std::int64_t begin = c * job_.grain;
      try {
        job_.fn(job_.context, begin, std::min(begin + job_.grain, job_.n));
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!error_) error_ = std::current_exception();
      }
    }
    t_inside = false;
  }
  void work() {
    std::uint64_t seen = 0;
    for (;;) {
      for (int i = 0; i < kSpins && generation_.load(std::memory_order_acquire) == seen; ++i)
        std::this_thread::yield();
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
        seen = generation_.load(std::memory_order_relaxed);
        if (stop_) return;
      }
      take_chunks();
      active_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> workers_;
  std::mutex run_mutex_, mutex_;
  std::condition_variable wake_;
  std::atomic<std::uint64_t> generation_{0};
  std::atomic<std::int64_t> next_{0};
  std::atomic<int> active_{0};
  Job job_;
  std::exception_ptr error_;
  bool stop_ = false;
};

std::unique_ptr<Pool>& pool() {
  static std::unique_ptr<Pool> p =
      std::make_unique<Pool>(std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
  return p;
}

}  // namespace

void set_num_threads(int threads) {
  NIBBLE_CHECK(threads >= 1 && threads <= 1024, "threads", "got {}, expected 1 to 1024", threads);
  if (pool()->threads() != threads) pool() = std::make_unique<Pool>(threads);
}
int num_threads() { return pool()->threads(); }

namespace detail {
void run_chunks(std::int64_t n, std::int64_t grain, ChunkFn fn, void* context) {
  NIBBLE_CHECK(grain > 0, "parallel_for", "got grain {}, expected a positive one", grain);
  const std::int64_t chunks = (n + grain - 1) / grain;
  // The same chunks as on many threads: a kernel's per-chunk partial sums must not change.
  if (t_inside || chunks == 1 || pool()->threads() == 1) {
    for (std::int64_t begin = 0; begin < n; begin += grain)
      fn(context, begin, std::min(begin + grain, n));
    return;
  }
  pool()->run({n, grain, chunks, fn, context});
}
}  // namespace detail

}  // namespace nibble
