// Index spaces of strided operands: what loops over views are planned with, on both devices.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>

#include "tensor/tensor.h"

namespace nibble {

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

// Dimensions by descending stride of y, so that writes are as sequential as the view allows.
inline std::array<int, Shape::kMaxRank> write_order(const Tensor& y) {
  std::array<int, Shape::kMaxRank> order{};
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.begin() + y.rank(),
                   [&](int a, int b) { return y.strides()[a] > y.strides()[b]; });
  return order;
}

// Writing one element through several indices has no one meaning.
inline void check_writable(const Tensor& y, const char* op) {
  for (int d = 0; d < y.rank(); ++d)
    NIBBLE_CHECK(y.strides()[d] != 0 || y.size(d) <= 1, op,
                 "cannot write into an expanded view: {} with strides {}", describe(y),
                 y.strides());
}

// The dimension along which operand 1 is densest: another than the last means a transposition.
inline int dense_dimension(const Strided<2>& s) {
  int dense = s.rank - 1;
  for (int d = 0; d < s.rank - 1; ++d)
    if (s.stride[1][d] != 0 && s.stride[1][d] < s.stride[1][dense]) dense = d;
  return dense;
}

}  // namespace nibble
