// Loops that every elementwise CPU kernel is made of: contiguous maps and walks over strided
// operands. Chunks have a fixed size, so that no bit depends on the number of threads.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

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
#pragma GCC ivdep
  for (std::int64_t i = begin; i < end; ++i)
    y[i] = static_cast<T>(f(static_cast<compute_t<X>>(x[i])...));
}

template <class T, class F, class... X>
void map(T* y, std::int64_t n, F f, const X*... x) {
  parallel_for(n, kGrain,
               [=](std::int64_t begin, std::int64_t end) { map_range(y, begin, end, f, x...); });
}

// N operands over one index space, adjacent dimensions merged where every operand allows it.
template <int N>
struct Strided {
  int rank = 0;
  std::array<std::int64_t, Shape::kMaxRank> extent{};
  std::array<std::array<std::int64_t, Shape::kMaxRank>, N> stride{};

  std::int64_t numel() const {
    std::int64_t n = 1;
    for (int d = 0; d < rank; ++d) n *= extent[d];
    return n;
  }
};

// `order` lists dimensions from outermost to innermost.
template <int N>
Strided<N> coalesce(const Shape& shape, const std::array<Shape, N>& strides,
                    const std::array<int, Shape::kMaxRank>& order) {
  Strided<N> out;
  for (int at = 0; at < shape.rank(); ++at) {
    const int d = order[at];
    if (shape[d] == 1) continue;
    bool merges = out.rank > 0;
    for (int k = 0; k < N && merges; ++k)
      merges = out.stride[k][out.rank - 1] == strides[k][d] * shape[d];
    if (!merges) out.extent[out.rank++] = 1;
    out.extent[out.rank - 1] *= shape[d];
    for (int k = 0; k < N; ++k) out.stride[k][out.rank - 1] = strides[k][d];
  }
  if (out.rank == 0) {  // a single element
    out.rank = 1;
    out.extent[0] = 1;
  }
  return out;
}

template <int N>
Strided<N> coalesce(const Shape& shape, const std::array<Shape, N>& strides) {
  return coalesce<N>(shape, strides, {0, 1, 2, 3, 4, 5});
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
