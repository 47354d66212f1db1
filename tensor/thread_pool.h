// parallel_for over fixed chunks: which chunk is which never depends on the number of threads, so a
// kernel whose chunks are independent gives the same bits at any thread count.
#pragma once

#include <cstdint>
#include <type_traits>

namespace nibble {

// Threads used by kernels (default: the hardware's). Call it outside kernels only.
void set_num_threads(int threads);
int num_threads();

namespace detail {
using ChunkFn = void (*)(void* context, std::int64_t begin, std::int64_t end);
void run_chunks(std::int64_t n, std::int64_t grain, ChunkFn fn, void* context);
}  // namespace detail

// Calls fn(begin, end) for [0, grain), [grain, 2·grain), … over [0, n). Nested calls run inline.
// The first exception thrown by a chunk is rethrown here once all threads are idle again.
template <class F>
void parallel_for(std::int64_t n, std::int64_t grain, F&& fn) {
  if (n <= 0) return;
  using Fn = std::remove_reference_t<F>;
  detail::run_chunks(
      n, grain,
      [](void* c, std::int64_t begin, std::int64_t end) { (*static_cast<Fn*>(c))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&fn)));
}

}  // namespace nibble
