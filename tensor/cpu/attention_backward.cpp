#include "tensor/cpu/attention_tile.h"
#include "tensor/cpu/lanes.h"
#include "tensor/cpu/loops.h"

namespace nibble::cpu {
namespace {

// Memory of one key head: O(T + S) rows of `width`, two tiles, and a row of dropout factors.
template <class C>
struct BackwardScratch {
  Tensor memory;
  C *q, *dout, *dq, *k, *v, *dk, *dv, *delta, *p, *dp, *keep;

  explicit BackwardScratch(const AttentionGeometry& g)
      : memory(Tensor::empty(
            {(3 * g.queries + 4 * g.keys) * g.width + g.queries + 2 * kQueries * kKeys + kKeys},
            dtype_of<C>)) {
    q = memory.data<C>();
    dout = q + g.queries * g.width;
    dq = dout + g.queries * g.width;
    k = dq + g.queries * g.width;
    v = k + g.keys * g.width;
    dk = v + g.keys * g.width;
    dv = dk + g.keys * g.width;
    delta = dv + g.keys * g.width;
    p = delta + g.queries;
    dp = p + kQueries * kKeys;
    keep = dp + kQueries * kKeys;
  }
};

// The operands of one query head in the compute type; q is scaled already.
template <class C>
struct HeadOperands {
  MatrixView<C> q, k, v, dout;
  const C* lse;
};

// With P the probabilities before dropout and M the dropout factors: dP = M ∘ (dout·vᵀ),
// dS = P ∘ (dP - rowsum(dout ∘ out)); on return w.p is M ∘ P and w.dp is dS.
template <class C>
void tile_gradients(const BackwardScratch<C>& w, const HeadOperands<C>& x,
                    const AttentionGeometry& g, const AttentionDropout& dropout, std::int64_t b,
                    std::int64_t h, std::int64_t t0, std::int64_t rows, std::int64_t s0,
                    std::int64_t keys) {
  gemm(w.p, keys, x.q.block(t0, 0, rows, g.width), x.k.block(s0, 0, keys, g.width).t(), false);
  gemm(w.dp, keys, x.dout.block(t0, 0, rows, g.width), x.v.block(s0, 0, keys, g.width).t(), false);
  for (std::int64_t i = 0; i < rows; ++i) {
    C *const p = w.p + i * keys, *const dp = w.dp + i * keys;
    const std::int64_t visible = std::clamp<std::int64_t>(g.visible(t0 + i) - s0, 0, keys);
    const C lse = x.lse[t0 + i], delta = w.delta[t0 + i];
    map_range(
        p, 0, visible, [lse](C s) { return scalar::exp(s - lse); }, p);
    if (dropout.active()) {
      dropout.row(w.keep, b, h, t0 + i, s0, visible);
      map_range(
          dp, 0, visible, [delta](C d, C prob, C keep) { return prob * (d * keep - delta); }, dp, p,
          w.keep);
      map_range(
          p, 0, visible, [](C prob, C keep) { return prob * keep; }, p, w.keep);
    } else {
      map_range(
          dp, 0, visible, [delta](C d, C prob) { return prob * (d - delta); }, dp, p);
    }
    std::fill(p + visible, p + keys, C(0));
    std::fill(dp + visible, dp + keys, C(0));
  }
}

// All query heads that share one key head: dk and dv are sums over them in a fixed order, so that
// no two threads ever add to the same element.
template <class T>
void backward_group(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout, const Tensor& q,
                    const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                    const AttentionGeometry& g, const AttentionDropout& dropout, std::int64_t b,
                    std::int64_t key_head) {
  using C = compute_t<T>;
  const BackwardScratch<C> w(g);
  const std::int64_t width = g.width, group = g.heads / g.key_heads;
  std::fill_n(w.dk, g.keys * width, C(0));
  std::fill_n(w.dv, g.keys * width, C(0));
  HeadOperands<C> x;
  x.k = as_compute(w.k, head_of<T>(k, b, key_head));
  x.v = as_compute(w.v, head_of<T>(v, b, key_head));
  for (std::int64_t h = key_head * group; h < (key_head + 1) * group; ++h) {
    const MatrixView<T> grad = head_of<T>(dout, b, h), result = head_of<T>(out, b, h);
    x.q = scaled_copy(w.q, head_of<T>(q, b, h), static_cast<C>(g.scale));
    x.dout = as_compute(w.dout, grad);
    x.lse = lse.data<C>() + (b * g.heads + h) * g.queries;
    for (std::int64_t t = 0; t < g.queries; ++t)
      w.delta[t] = lane_fold<C>(
          width, SumFold{}, [](C d, C o) { return d * o; }, grad.data + t * grad.row_stride,
          result.data + t * result.row_stride);
    std::fill_n(w.dq, g.queries * width, C(0));
    for (std::int64_t s0 = 0; s0 < g.keys; s0 += kKeys)
      for (std::int64_t t0 = 0; t0 < g.queries; t0 += kQueries) {
        const std::int64_t rows = std::min(kQueries, g.queries - t0);
        const std::int64_t keys = std::min(kKeys, g.visible(t0 + rows - 1) - s0);
        if (keys <= 0) continue;  // masked for every row
        tile_gradients(w, x, g, dropout, b, h, t0, rows, s0, keys);
        const MatrixView<C> p{w.p, rows, keys, keys, 1}, ds{w.dp, rows, keys, keys, 1};
        gemm(w.dv + s0 * width, width, p.t(), x.dout.block(t0, 0, rows, width), true);
        gemm(w.dk + s0 * width, width, ds.t(), x.q.block(t0, 0, rows, width), true);
        gemm(w.dq + t0 * width, width, ds, x.k.block(s0, 0, keys, width), true);
      }
    store_rows(head_of<T>(dq, b, h), w.dq, static_cast<C>(g.scale));
  }
  store_rows(head_of<T>(dk, b, key_head), w.dk, C(1));
  store_rows(head_of<T>(dv, b, key_head), w.dv, C(1));
}

}  // namespace

void attention_backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout, const Tensor& q,
                        const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                        const AttentionOptions& options) {
  const AttentionGeometry g(q, k, options);
  const AttentionDropout dropout(g, options);
  parallel_for(g.batch * g.key_heads, 1, [&](std::int64_t item, std::int64_t) {
    NIBBLE_FLOAT_SWITCH(q.dtype(), "attention_backward", T,
                        backward_group<T>(dq, dk, dv, dout, q, k, v, out, lse, g, dropout,
                                          item / g.key_heads, item % g.key_heads));
  });
}

}  // namespace nibble::cpu
