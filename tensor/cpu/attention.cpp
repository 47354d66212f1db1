#include <limits>

#include "tensor/cpu/attention_tile.h"
#include "tensor/cpu/lanes.h"
#include "tensor/cpu/loops.h"

namespace nibble::cpu {
namespace {

// Memory of one block of queries: scores are never larger than a tile.
template <class C>
struct ForwardScratch {
  Tensor memory;
  C *q, *k, *v, *out, *scores, *keep, *max, *sum;

  explicit ForwardScratch(std::int64_t width)
      : memory(Tensor::empty({2 * (kQueries + kKeys) * width + kQueries * (kKeys + 2) + kKeys},
                             dtype_of<C>)) {
    q = memory.data<C>();
    k = q + kQueries * width;
    v = k + kKeys * width;
    out = v + kKeys * width;
    scores = out + kQueries * width;
    keep = scores + kQueries * kKeys;
    max = keep + kKeys;
    sum = max + kQueries;
  }
};

// One row of a tile of scores becomes probabilities relative to the running maximum; what was
// accumulated under the old maximum is rescaled (online softmax). `visible` of its keys count.
template <class C>
void softmax_row(C* scores, std::int64_t visible, std::int64_t keys, C& max, C& sum, C* out,
                 std::int64_t width) {
  std::fill(scores + visible, scores + keys, C(0));
  if (visible == 0) return;
  const C m = MaxFold{}(max, lane_max<C>(scores, visible));
  // While only -inf was seen, any finite reference gives the right sum, 0.
  const C reference = m == -std::numeric_limits<C>::infinity() ? C(0) : m;
  map_range(
      scores, 0, visible, [reference](C s) { return scalar::exp(s - reference); }, scores);
  if (m != max) {
    const C shrink = scalar::exp(max - reference);
    sum *= shrink;
    map_range(
        out, 0, width, [shrink](C x) { return x * shrink; }, out);
    max = m;
  }
  sum += lane_sum<C>(scores, visible);
}

template <class T>
void forward_block(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
                   const AttentionGeometry& g, const AttentionDropout& dropout, std::int64_t b,
                   std::int64_t h, std::int64_t t0) {
  using C = compute_t<T>;
  const std::int64_t rows = std::min(kQueries, g.queries - t0), width = g.width;
  const std::int64_t key_head = h / (g.heads / g.key_heads);
  const MatrixView<T> all_k = head_of<T>(k, b, key_head), all_v = head_of<T>(v, b, key_head);
  const ForwardScratch<C> w(width);
  const MatrixView<C> queries =
      scaled_copy(w.q, head_of<T>(q, b, h).block(t0, 0, rows, width), static_cast<C>(g.scale));
  std::fill_n(w.out, rows * width, C(0));
  std::fill_n(w.max, rows, -std::numeric_limits<C>::infinity());
  std::fill_n(w.sum, rows, C(0));
  const std::int64_t seen = g.visible(t0 + rows - 1);  // keys past this are masked for every row
  for (std::int64_t s0 = 0; s0 < seen; s0 += kKeys) {
    const std::int64_t keys = std::min(kKeys, seen - s0);
    gemm(w.scores, keys, queries, as_compute(w.k, all_k.block(s0, 0, keys, width)).t(), false);
    for (std::int64_t i = 0; i < rows; ++i) {
      C* const row = w.scores + i * keys;
      const std::int64_t visible = std::clamp<std::int64_t>(g.visible(t0 + i) - s0, 0, keys);
      softmax_row(row, visible, keys, w.max[i], w.sum[i], w.out + i * width, width);
      if (!dropout.active()) continue;
      dropout.row(w.keep, b, h, t0 + i, s0, visible);
      map_range(
          row, 0, visible, [](C p, C keep) { return p * keep; }, row, w.keep);
    }
    gemm(w.out, width, MatrixView<C>{w.scores, rows, keys, keys, 1},
         as_compute(w.v, all_v.block(s0, 0, keys, width)), true);
  }
  C* const lse_out = lse.data<C>() + (b * g.heads + h) * g.queries + t0;
  for (std::int64_t i = 0; i < rows; ++i) {
    // A query without keys gives 0, and log-sum-exp -inf.
    const C inverse = w.sum[i] == C(0) ? C(0) : C(1) / w.sum[i];
    store_rows(head_of<T>(out, b, h).block(t0 + i, 0, 1, width), w.out + i * width, inverse);
    lse_out[i] = w.max[i] + std::log(w.sum[i]);
  }
}

}  // namespace

void attention(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
               const AttentionOptions& options) {
  const AttentionGeometry g(q, k, options);
  const AttentionDropout dropout(g, options);
  const std::int64_t blocks = (g.queries + kQueries - 1) / kQueries;
  parallel_for(g.batch * g.heads * blocks, 1, [&](std::int64_t item, std::int64_t) {
    const std::int64_t head = item / blocks, t0 = item % blocks * kQueries;
    NIBBLE_FLOAT_SWITCH(
        q.dtype(), "attention", T,
        forward_block<T>(out, lse, q, k, v, g, dropout, head / g.heads, head % g.heads, t0));
  });
}

}  // namespace nibble::cpu
