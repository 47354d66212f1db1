// Attention backward in f32: the two kernels of attention_bf16_backward.cu, with products as fused
// multiply-adds in f32. Queries are scaled as they are loaded, so dK needs no scale of its own.
#include "tensor/cuda/attention_fma.cuh"

namespace nibble::cuda {
namespace {

// Four operands, two tiles of scores, dropout bits, the statistics of a tile of queries.
template <class C>
constexpr int kBackwardShared =
    4 * C::kOperandBytes + 2 * C::kScoreBytes + C::kKeptBytes + C::kTile * 8;

template <class C>
struct BackwardMemory {
  float *queries, *douts, *keys, *values, *p, *ds;
  std::uint32_t* kept;
  float2* stats;

  __device__ explicit BackwardMemory(char* shared) {
    queries = reinterpret_cast<float*>(shared);
    douts = queries + C::kOperandBytes / 4;
    keys = douts + C::kOperandBytes / 4;
    values = keys + C::kOperandBytes / 4;
    stats = reinterpret_cast<float2*>(values + C::kOperandBytes / 4);
    kept = reinterpret_cast<std::uint32_t*>(stats + C::kTile);
    p = reinterpret_cast<float*>(kept + C::kThreads);
    ds = p + C::kScoreBytes / 4;
  }
  __device__ void load_queries(const BackwardArguments<float>& a, int b, int h, int t0) {
    const AttentionShape& s = a.shape;
    load_operand<C>(queries, a.q.row(b, h, t0), a.q.row_stride, s.queries - t0, s.width, s.scale);
    load_operand<C>(douts, a.dout.row(b, h, t0), a.dout.row_stride, s.queries - t0, s.width);
    const std::int64_t head = static_cast<std::int64_t>(b) * s.heads + h;
    if (threadIdx.x < C::kTile)  // rows up to padded_queries are there
      stats[threadIdx.x] = a.stats[head * a.padded_queries + t0 + threadIdx.x];
  }
  __device__ void load_keys(const BackwardArguments<float>& a, int b, int key_head, int s0) {
    const AttentionShape& s = a.shape;
    load_operand<C>(keys, a.k.row(b, key_head, s0), a.k.row_stride, s.keys - s0, s.width);
    load_operand<C>(values, a.v.row(b, key_head, s0), a.v.row_stride, s.keys - s0, s.width);
  }
};

// One score and its dout · v become M ∘ P and dS.
struct Gradients {
  float p, ds;
};
template <class C>
__device__ Gradients gradients(const BackwardArguments<float>& a, const BackwardMemory<C>& m,
                               float score, float dp, int t0, int s0, int query, int key) {
  if (s0 + key >= a.shape.seen(t0 + query)) return {0, 0};
  const float2 row = m.stats[query];
  const float p = scalar::exp(score - row.x);
  const float keep =
      a.dropout.threshold == 0 || survives<C>(m.kept, query, key) ? a.dropout.scale : 0.0f;
  return {p * keep, p * fmaf(dp, keep, -row.y)};
}

template <class C>
__global__ void __launch_bounds__(C::kThreads)
    key_gradients(const __grid_constant__ BackwardArguments<float> a) {
  constexpr int kTile = C::kTile;
  extern __shared__ __align__(16) char shared[];
  BackwardMemory<C> m(shared);
  const AttentionShape& shape = a.shape;
  const int tiles = (shape.keys + kTile - 1) / kTile;
  const int s0 = static_cast<int>(blockIdx.x) % tiles * kTile;
  const int head = static_cast<int>(blockIdx.x) / tiles;
  const int b = head / shape.key_heads, key_head = head % shape.key_heads;
  const int group = shape.heads / shape.key_heads;
  m.load_keys(a, b, key_head, s0);
  OutputTile<C> dk, dv;
  dk.clear();
  dv.clear();
  // Queries before this one see none of the tile's keys.
  const int first_query =
      shape.causal ? ::max(0, s0 - (shape.keys - shape.queries)) / kTile * kTile : 0;
  for (int h = key_head * group; h < (key_head + 1) * group; ++h) {
    const DropoutDraws draws(a.dropout, shape, b, h);
    for (int t0 = first_query; t0 < shape.queries; t0 += kTile) {
      __syncthreads();  // the queries and scores of the last tile have been read
      m.load_queries(a, b, h, t0);
      if (a.dropout.threshold > 0) draw_kept<C>(m.kept, draws, t0, s0);
      __syncthreads();
      ScoreTile<C> s, dp;  // transposed: rows are keys
      s.product(m.keys, m.queries);
      dp.product(m.values, m.douts);
#pragma unroll
      for (int i = 0; i < C::kOf16; ++i)
#pragma unroll
        for (int j = 0; j < C::kOf16; ++j) {
          const int key = thread_y() + 16 * i, query = thread_x() + 16 * j;
          const Gradients g = gradients(a, m, s.v[i][j], dp.v[i][j], t0, s0, query, key);
          m.p[key * C::kScoreStride + query] = g.p;
          m.ds[key * C::kScoreStride + query] = g.ds;
        }
      __syncthreads();
      dv.add_product(m.p, m.douts);
      dk.add_product(m.ds, m.queries);
    }
  }
  const auto one = [](int) { return 1.0f; };
  dk.store(a.dk.row(b, key_head, s0), a.dk.row_stride, shape.keys - s0, shape.width, one);
  dv.store(a.dv.row(b, key_head, s0), a.dv.row_stride, shape.keys - s0, shape.width, one);
}

template <class C>
__global__ void __launch_bounds__(C::kThreads)
    query_gradients(const __grid_constant__ BackwardArguments<float> a) {
  constexpr int kTile = C::kTile;
  extern __shared__ __align__(16) char shared[];
  BackwardMemory<C> m(shared);
  const AttentionShape& shape = a.shape;
  const int tiles = (shape.queries + kTile - 1) / kTile;
  const int head = static_cast<int>(blockIdx.x) / tiles;
  const int t0 = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * kTile;
  const int b = head / shape.heads, h = head % shape.heads;
  const DropoutDraws draws(a.dropout, shape, b, h);
  m.load_queries(a, b, h, t0);
  OutputTile<C> dq;
  dq.clear();
  const int seen = shape.seen(::min(t0 + kTile, shape.queries) - 1);
  for (int s0 = 0; s0 < seen; s0 += kTile) {
    __syncthreads();  // the keys and scores of the last tile have been read
    m.load_keys(a, b, shape.key_head(h), s0);
    if (a.dropout.threshold > 0) draw_kept<C>(m.kept, draws, t0, s0);
    __syncthreads();
    ScoreTile<C> s, dp;
    s.product(m.queries, m.keys);
    dp.product(m.douts, m.values);
#pragma unroll
    for (int i = 0; i < C::kOf16; ++i)
#pragma unroll
      for (int j = 0; j < C::kOf16; ++j) {
        const int query = thread_y() + 16 * i, key = thread_x() + 16 * j;
        m.ds[query * C::kScoreStride + key] =
            gradients(a, m, s.v[i][j], dp.v[i][j], t0, s0, query, key).ds;
      }
    __syncthreads();
    dq.add_product(m.ds, m.keys);
  }
  dq.store(a.dq.row(b, h, t0), a.dq.row_stride, shape.queries - t0, shape.width,
           [&](int) { return shape.scale; });
}

template <class C>
void launch_backward(const BackwardArguments<float>& a) {
  static_assert(kStatsPadding % C::kTile == 0);
  const AttentionShape& s = a.shape;
  launch_tiles(key_gradients<C>, ceil_div(s.keys, C::kTile) * s.batch * s.key_heads, C::kThreads,
               kBackwardShared<C>, a);
  launch_tiles(query_gradients<C>, ceil_div(s.queries, C::kTile) * s.batch * s.heads, C::kThreads,
               kBackwardShared<C>, a);
}

}  // namespace

void launch_attention_backward(const BackwardArguments<float>& a) {
  if (a.shape.width <= 64)
    launch_backward<FmaTiling64>(a);
  else if (a.shape.width <= 128)
    launch_backward<FmaTiling128>(a);
  else
    launch_backward<FmaTiling256>(a);
}

}  // namespace nibble::cuda
