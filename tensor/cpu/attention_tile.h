// What the two attention kernels share: geometry, views of one head, masks.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "tensor/cpu/draws.h"
#include "tensor/cpu/gemm.h"
#include "tensor/kernels.h"

namespace nibble::cpu {

// Scores are computed in tiles of kQueries x kKeys.
inline constexpr std::int64_t kQueries = 64, kKeys = 64;

struct AttentionGeometry {
  std::int64_t batch, queries, keys, heads, key_heads, width;
  double scale;
  bool causal;

  AttentionGeometry(const Tensor& q, const Tensor& k, const AttentionOptions& options)
      : batch(q.size(0)),
        queries(q.size(1)),
        keys(k.size(1)),
        heads(q.size(2)),
        key_heads(k.size(2)),
        width(q.size(3)),
        scale(options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(width))),
        causal(options.causal) {}

  // Query t sees keys [0, visible(t)).
  std::int64_t visible(std::int64_t t) const {
    return causal ? std::clamp<std::int64_t>(t + keys - queries + 1, 0, keys) : keys;
  }
};

// One head of a [B, T, H, D] view as a [T, D] matrix.
template <class T>
MatrixView<T> head_of(const Tensor& x, std::int64_t b, std::int64_t h) {
  const Shape& s = x.strides();
  return {x.data<T>() + b * s[0] + h * s[2], x.size(1), x.size(3), s[1], 1};
}

// x times factor in the compute type, row by row, as a contiguous matrix in `buffer`.
template <class C, class T>
MatrixView<C> scaled_copy(C* buffer, const MatrixView<T>& x, C factor) {
  for (std::int64_t i = 0; i < x.rows; ++i) {
    const T* from = x.data + i * x.row_stride;
    C* to = buffer + i * x.cols;
    for (std::int64_t j = 0; j < x.cols; ++j) to[j] = static_cast<C>(from[j]) * factor;
  }
  return {buffer, x.rows, x.cols, x.cols, 1};
}

// x itself where its type is the compute type, else a copy in `buffer`.
template <class C, class T>
MatrixView<C> as_compute(C* buffer, const MatrixView<T>& x) {
  if constexpr (std::is_same_v<C, T>)
    return x;
  else
    return scaled_copy(buffer, x, C(1));
}

// Rows of a contiguous matrix times factor, rounded into a head of a [B, T, H, D] view.
template <class C, class T>
void store_rows(const MatrixView<T>& to, const C* from, C factor) {
  for (std::int64_t i = 0; i < to.rows; ++i) {
    T* row = const_cast<T*>(to.data) + i * to.row_stride;
    for (std::int64_t j = 0; j < to.cols; ++j)
      row[j] = static_cast<T>(from[i * to.cols + j] * factor);
  }
}

// Factors of the probabilities of one row: 1/(1 - p) where kept, else 0. Nothing is stored between
// the passes; both draw the same numbers again.
class AttentionDropout {
 public:
  AttentionDropout(const AttentionGeometry& g, const AttentionOptions& options)
      : heads_(g.heads),
        queries_(g.queries),
        keys_(g.keys),
        key_(options.key),
        step_(options.dropout > 0 ? options.key.step_value() : 0),
        threshold_(static_cast<float>(std::lround(options.dropout * 65536.0))),
        scale_(options.dropout > 0 ? 1.0 / (1.0 - options.dropout) : 1.0) {}

  bool active() const { return threshold_ > 0; }

  // keep[j] for keys [first, first + n) of query t.
  template <class C>
  void row(C* keep, std::int64_t b, std::int64_t h, std::int64_t t, std::int64_t first,
           std::int64_t n) const {
    std::int64_t element = ((b * heads_ + h) * queries_ + t) * keys_ + first;
    const C scale = static_cast<C>(scale_);
    std::array<std::uint16_t, 64> draws;
    for (std::int64_t j = 0; j < n;) {
      const std::int64_t lane = element & 7, count = std::min<std::int64_t>(64 - lane, n - j);
      draw_batch(key_, step_, element >> 3, draws);
      const std::uint16_t* d = draws.data() + lane;
      for (std::int64_t i = 0; i < count; ++i)
        keep[j + i] = static_cast<float>(d[i]) >= threshold_ ? scale : C(0);
      j += count;
      element += count;
    }
  }

 private:
  std::int64_t heads_, queries_, keys_;
  RngKey key_;
  std::uint32_t step_;
  float threshold_;
  double scale_;
};

}  // namespace nibble::cpu
