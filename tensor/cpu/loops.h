// Loops that every elementwise CPU kernel is made of: contiguous maps and walks over strided
// operands. Chunks have a fixed size, so that no bit depends on the number of threads.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "tensor/strided.h"
#include "tensor/tensor.h"
#include "tensor/thread_pool.h"

namespace nibble::cpu {

// Elements of a chunk: 64 KiB of f32, large against a wake-up, small against L2. A multiple of 8,
// so that chunks start at a fresh Philox block.
inline constexpr std::int64_t kGrain = 16384;

// Rows of `cols` elements in a chunk of about kGrain elements.
constexpr std::int64_t row_grain(std::int64_t cols) {
  return std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(1, cols));
}

// y[i] = f(x[i]…) for i in [begin, end), computed in compute_t. Operands may be the very array y
// (ivdep: iteration i touches index i only), never a shifted one.
template <class T, class F, class... X>
void map_range(T* y, std::int64_t begin, std::int64_t end, F f, const X*... x) {
#ifndef __clang__
#pragma GCC ivdep
#endif
  for (std::int64_t i = begin; i < end; ++i)
    y[i] = static_cast<T>(f(static_cast<compute_t<X>>(x[i])...));
}

template <class T, class F, class... X>
void map(T* y, std::int64_t n, F f, const X*... x) {
  parallel_for(n, kGrain,
               [=](std::int64_t begin, std::int64_t end) { map_range(y, begin, end, f, x...); });
}

// Calls row(i, offsets, n) for the pieces of innermost rows that cover the elements [begin, end) in
// logical order: n elements from number i on, operand k starting at offsets[k].
template <int N, class F>
void walk_rows(const Strided<N>& s, std::int64_t begin, std::int64_t end, F&& row) {
  const int last = s.rank - 1;
  std::array<std::int64_t, Shape::kMaxRank> at{};
  std::array<std::int64_t, N> offset{};
  std::int64_t rest = begin;
  for (int d = last; d >= 0; --d) {
    at[d] = rest % s.extent[d];
    rest /= s.extent[d];
    for (int k = 0; k < N; ++k) offset[k] += at[d] * s.stride[k][d];
  }
  for (std::int64_t i = begin; i < end;) {
    const std::int64_t n = std::min(s.extent[last] - at[last], end - i);
    row(i, offset, n);
    i += n;
    at[last] += n;
    for (int k = 0; k < N; ++k) offset[k] += n * s.stride[k][last];
    for (int d = last; d > 0 && at[d] == s.extent[d]; --d) {
      at[d] = 0;
      ++at[d - 1];
      for (int k = 0; k < N; ++k) offset[k] += s.stride[k][d - 1] - s.extent[d] * s.stride[k][d];
    }
  }
}

}  // namespace nibble::cpu
