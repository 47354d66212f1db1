// The library's own attention: prepares operands and launches the kernels of its dtype.
#include <cmath>

#include "tensor/cuda/attention_routes.h"
#include "tensor/cuda/attention_tile.cuh"

namespace nibble::cuda {
namespace {

constexpr std::int64_t kMaxWidth = 256;

// stats[b, h, t] = (lse · lse_factor, rowsum(dout ∘ out)): eight lanes to a row of D elements of
// each, four rows under way to a thread, in the order in which heads of a token lie in memory,
// which is the roof. Rows that see no key, and those past the last query, get lse = +inf: their
// probabilities come out as 0 without a test.
constexpr int kStatsThreads = 128, kStatsLanes = 8, kStatsAhead = 4;
constexpr int kStatsGroups = kStatsThreads / kStatsLanes, kStatsRows = kStatsGroups * kStatsAhead;
static_assert(kStatsPadding % kStatsRows == 0);
template <class T>
__global__ void __launch_bounds__(kStatsThreads)
    row_stats(float2* stats, HeadsView<const T> out, HeadsView<const T> dout, const float* lse,
              AttentionShape s, int padded_queries, float lse_factor, bool aligned) {
  constexpr int V = kVector<T>;
  const unsigned blocks_of_batch =
      static_cast<unsigned>(padded_queries) / kStatsRows * static_cast<unsigned>(s.heads);
  const int b = static_cast<int>(blockIdx.x / blocks_of_batch);
  const unsigned first = blockIdx.x % blocks_of_batch * kStatsRows + threadIdx.x / kStatsLanes;
  const int lane = static_cast<int>(threadIdx.x % kStatsLanes);
  const T *x[kStatsAhead], *y[kStatsAhead];
  std::int64_t head[kStatsAhead];
  int t[kStatsAhead];
  float l[kStatsAhead], sum[kStatsAhead] = {};
#pragma unroll
  for (int a = 0; a < kStatsAhead; ++a) {
    const unsigned row = first + a * kStatsGroups, heads = static_cast<unsigned>(s.heads);
    const int h = static_cast<int>(row % heads);
    t[a] = static_cast<int>(row / heads);
    head[a] = std::int64_t{b} * s.heads + h;
    const int query = t[a] < s.queries ? t[a] : 0;  // some row, whose sum does not matter
    x[a] = out.row(b, h, query), y[a] = dout.row(b, h, query);
    l[a] = t[a] < s.queries ? lse[head[a] * s.queries + t[a]] : -INFINITY;
  }
  for (int c = lane * V; c < s.width; c += kStatsLanes * V) {
    if (aligned && c + V <= s.width) {
      Vector<T, V> u[kStatsAhead], v[kStatsAhead];
#pragma unroll
      for (int a = 0; a < kStatsAhead; ++a)
        u[a] = load_vector<T>(x[a] + c), v[a] = load_vector<T>(y[a] + c);
#pragma unroll
      for (int a = 0; a < kStatsAhead; ++a)
#pragma unroll
        for (int e = 0; e < V; ++e) sum[a] = fmaf(to_float(u[a][e]), to_float(v[a][e]), sum[a]);
    } else {
#pragma unroll
      for (int a = 0; a < kStatsAhead; ++a)
        for (int e = 0; e < V && c + e < s.width; ++e)
          sum[a] = fmaf(to_float(x[a][c + e]), to_float(y[a][c + e]), sum[a]);
    }
  }
#pragma unroll
  for (int a = 0; a < kStatsAhead; ++a) {
#pragma unroll
    for (int other = kStatsLanes / 2; other > 0; other /= 2)
      sum[a] += __shfl_xor_sync(kFullMask, sum[a], other);
    if (lane == 0)
      stats[head[a] * padded_queries + t[a]] = {l[a] == -INFINITY ? INFINITY : l[a] * lse_factor,
                                                t[a] < s.queries ? sum[a] : 0.0f};
  }
}

template <class T>
HeadsView<const T> view(const Tensor& x) {
  return {x.data<T>(), x.strides()[0], x.strides()[1], x.strides()[2]};
}
template <class T>
HeadsView<T> view(Tensor& x) {
  return {x.data<T>(), x.strides()[0], x.strides()[1], x.strides()[2]};
}

}  // namespace

Tensor readable_heads(const Tensor& x) {
  bool repeats = false;
  for (int dim = 0; dim < 3; ++dim) repeats = repeats || (x.size(dim) > 1 && x.strides()[dim] == 0);
  if (x.dtype() != DType::BF16 || x.numel() == 0 || (attention_aligned(x) && !repeats)) return x;
  const std::int64_t per_16_bytes = 8, width = x.size(3);
  Tensor rows =
      Tensor::empty({x.size(0), x.size(1), x.size(2), ceil_div(width, per_16_bytes) * per_16_bytes},
                    x.dtype(), x.device());
  Tensor y = rows.slice(3, 0, width);
  copy(y, x);
  return y;
}

namespace {

AttentionShape shape_of(const Tensor& q, const Tensor& k, const AttentionOptions& o) {
  const auto at = [](std::int64_t n) { return static_cast<int>(n); };
  const std::int64_t width = q.size(3);
  NIBBLE_CHECK(width <= kMaxWidth, "attention", "got head width {} on a GPU, expected at most {}",
               width, kMaxWidth);
  const double scale = o.scale != 0 ? o.scale : 1 / std::sqrt(static_cast<double>(width));
  return {at(q.size(0)),
          at(q.size(1)),
          at(k.size(1)),
          at(q.size(2)),
          at(k.size(2)),
          at(width),
          static_cast<float>(scale),
          o.causal};
}
AttentionDropout dropout_of(const AttentionOptions& o) {
  if (o.dropout == 0) return {o.key, 0, 1};
  return {o.key, static_cast<std::uint32_t>(std::lround(o.dropout * 65536)),
          static_cast<float>(1 / (1 - o.dropout))};
}

template <class T>
ForwardArguments<T> arguments_of(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k,
                                 const Tensor& v, const AttentionOptions& o) {
  return {shape_of(q, k, o),      view<T>(q),        view<T>(k),   view<T>(v), view<T>(out),
          attention_aligned(out), lse.data<float>(), dropout_of(o)};
}
template <class T>
void forward(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
             const AttentionOptions& o) {
  const Tensor rq = readable_heads(q), rk = readable_heads(k), rv = readable_heads(v);
  launch_attention(arguments_of<T>(out, lse, rq, rk, rv, o));
}

template <class T>
void backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout, const Tensor& q,
              const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
              const AttentionOptions& o) {
  constexpr float kLog2E = 1.44269504f;
  const AttentionShape shape = shape_of(q, k, o);
  const Tensor rq = readable_heads(q), rk = readable_heads(k), rv = readable_heads(v);
  const Tensor rdout = readable_heads(dout);
  const std::int64_t heads = q.size(0) * q.size(2);
  const std::int64_t padded = ceil_div(q.size(1), kStatsPadding) * kStatsPadding;
  Tensor stats = Tensor::empty({heads, padded, 2}, DType::F32, q.device());
  float2* const rows = reinterpret_cast<float2*>(stats.data<float>());
  // A kernel on bf16 computes 2^(s - lse), one on f32 e^(s - lse).
  launch(row_stats<T>, dim3(static_cast<unsigned>(heads * (padded / kStatsRows))),
         dim3(kStatsThreads), 0, rows, view<T>(out), view<T>(rdout), lse.data<float>(), shape,
         padded, sizeof(T) == 2 ? kLog2E : 1.0f,
         attention_aligned(out) && attention_aligned(rdout));
  launch_attention_backward(BackwardArguments<T>{
      shape, view<T>(rq), view<T>(rk), view<T>(rv), view<T>(rdout), view<T>(dq), view<T>(dk),
      view<T>(dv), attention_aligned(dq), attention_aligned(dk), attention_aligned(dv), rows,
      static_cast<int>(padded), dropout_of(o)});
}

}  // namespace

ForwardArguments<bfloat16> forward_arguments(Tensor& out, Tensor& lse, const Tensor& q,
                                             const Tensor& k, const Tensor& v,
                                             const AttentionOptions& options) {
  return arguments_of<bfloat16>(out, lse, q, k, v, options);
}

void own_attention(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
                   const AttentionOptions& options) {
  NIBBLE_CUDA_FLOAT_SWITCH(q.dtype(), "attention", T, forward<T>(out, lse, q, k, v, options))
}

void own_attention_backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout, const Tensor& q,
                            const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                            const AttentionOptions& options) {
  NIBBLE_CUDA_FLOAT_SWITCH(q.dtype(), "attention_backward", T,
                           backward<T>(dq, dk, dv, dout, q, k, v, out, lse, options))
}

}  // namespace nibble::cuda
