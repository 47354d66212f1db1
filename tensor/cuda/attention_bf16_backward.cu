// Attention backward in bf16 of heads wider than attention_wgmma_backward.cu takes. With P the
// probabilities before dropout and M the dropout factors: dV = (M ∘ P)ᵀ dout, dP = M ∘ (dout Vᵀ),
// dS = P ∘ (dP - rowsum(dout ∘ out)), dQ = scale · dS K, dK = scale · dSᵀ Q. Two kernels recompute
// P from the log-sum-exp: one owns a tile of keys and streams the queries of all heads of its group
// past it (dK, dV), one owns a tile of queries and streams the keys (dQ). So every sum has one
// owner and a fixed order: no atomics, and memory stays O(T), for 7 tile products in place of the 5
// of a pass that adds dQ in any order. dK's kernel computes transposed scores (rows are keys),
// whose accumulators are left operands of the next products as they stand. Roofline: 14·T·S·D
// operations a head (half of that causal).
#include "tensor/cuda/attention_dropout.cuh"

namespace nibble::cuda {
namespace {

constexpr float kLog2E = 1.44269504f;

// kOwn rows are owned, kStep rows at a time stream past them; gradients are kOut wide: where a
// warp's registers cannot hold kWidth columns of both, blocks share the columns out.
template <int kWidth_, int kRowTiles_, int kStep_, int kOut_, int kBlocks_>
struct Tiling {
  static constexpr int kWidth = kWidth_, kRowTiles = kRowTiles_, kStep = kStep_, kOut = kOut_;
  static constexpr int kBlocks = kBlocks_;  // to a multiprocessor
  static constexpr int kWarps = 4, kThreads = 32 * kWarps, kWarpRows = 16 * kRowTiles;
  static constexpr int kOwn = kWarpRows * kWarps;
  static constexpr int kOwnBytes = kOwn * kWidth * 2, kStepBytes = kStep * kWidth * 2;
  static constexpr int kStageBytes = 2 * kStepBytes;
  static constexpr int kShared = 2 * kOwnBytes + 2 * kStageBytes;
};
// Beside the tiles, dK's kernel keeps the statistics of two steps of queries.
template <class C>
constexpr int kStatsBytes = C::kStep* static_cast<int>(sizeof(float2));
using KeyTiling256 = Tiling<256, 1, 32, 128, 1>;
using QueryTiling256 = Tiling<256, 1, 32, 256, 1>;

template <class C, bool kDropout>
__global__ void __launch_bounds__(C::kThreads, C::kBlocks)
    key_gradients(const __grid_constant__ BackwardArguments<bfloat16> a) {
  constexpr int kWidth = C::kWidth, kStep = C::kStep, kChunk = 32, kSlices = kWidth / C::kOut;
  extern __shared__ __align__(1024) char shared[];
  const AttentionShape& shape = a.shape;
  const int tiles = (shape.keys + C::kOwn - 1) / C::kOwn;
  const int slice = static_cast<int>(blockIdx.x) % kSlices;
  const int tile = static_cast<int>(blockIdx.x) / kSlices % tiles;  // the first see most queries
  const int head = static_cast<int>(blockIdx.x) / kSlices / tiles;
  const int b = head / shape.key_heads, key_head = head % shape.key_heads;
  const int group = shape.heads / shape.key_heads;
  const int s0 = tile * C::kOwn, warp = static_cast<int>(threadIdx.x / kWarp);
  const int first_key = s0 + warp * C::kWarpRows, lane = static_cast<int>(threadIdx.x % kWarp);

  const std::uint32_t keys = shared_address(shared), values = keys + C::kOwnBytes;
  const std::uint32_t stages = values + C::kOwnBytes, stats = stages + 2 * C::kStageBytes;
  // Queries before this one see none of the tile's keys.
  const int first_query =
      shape.causal ? ::max(0, s0 - (shape.keys - shape.queries)) / kStep * kStep : 0;
  const int steps_a_head =
      first_query < shape.queries ? (shape.queries - first_query + kStep - 1) / kStep : 0;
  const int steps = group * steps_a_head;
  const auto start_copy = [&](int step) {
    const int h = key_head * group + step / steps_a_head;
    const int t0 = first_query + step % steps_a_head * kStep;
    const std::uint32_t to = stages + static_cast<std::uint32_t>(step % 2 * C::kStageBytes);
    copy_tile<kStep, kWidth, C::kThreads>(to, a.q.row(b, h, t0), a.q.row_stride, shape.queries - t0,
                                          shape.width);
    copy_tile<kStep, kWidth, C::kThreads>(to + C::kStepBytes, a.dout.row(b, h, t0),
                                          a.dout.row_stride, shape.queries - t0, shape.width);
    const char* from = reinterpret_cast<const char*>(
        a.stats + static_cast<std::int64_t>(b * shape.heads + h) * a.padded_queries + t0);
    if (static_cast<int>(threadIdx.x) < kStatsBytes<C> / 16)
      copy_async(stats + static_cast<std::uint32_t>(step % 2 * kStatsBytes<C>) + threadIdx.x * 16,
                 from + threadIdx.x * 16, 16);
  };
  copy_tile<C::kOwn, kWidth, C::kThreads>(keys, a.k.row(b, key_head, s0), a.k.row_stride,
                                          shape.keys - s0, shape.width);
  copy_tile<C::kOwn, kWidth, C::kThreads>(values, a.v.row(b, key_head, s0), a.v.row_stride,
                                          shape.keys - s0, shape.width);
  commit_copies();
  if (steps > 0) start_copy(0);
  commit_copies();

  const int warp_offset = warp * C::kWarpRows * kWidth * 2;
  const LeftRows<1, kWidth> own_keys(keys + static_cast<std::uint32_t>(warp_offset));
  const LeftRows<1, kWidth> own_values(values + static_cast<std::uint32_t>(warp_offset));
  wait_for_copies<1>();
  __syncthreads();
  Accumulators<1, C::kOut> dk, dv;
  dk.clear();
  dv.clear();
  const float scale = shape.scale * kLog2E;
  const std::uint32_t slice_offset = static_cast<std::uint32_t>(slice * C::kOut * 2);

  for (int step = 0; step < steps; ++step) {
    wait_for_copies<0>();
    __syncthreads();  // the stage is filled, and the other one is no longer read
    if (step + 1 < steps) start_copy(step + 1);
    commit_copies();
    const int first_in_step = first_query + step % steps_a_head * kStep;
#pragma unroll 1
    for (int chunk = 0; chunk < kStep / kChunk; ++chunk) {
      const int t0 = first_in_step + chunk * kChunk;
      if (first_key >= shape.seen(t0 + kChunk - 1)) continue;  // masked for all these queries
      const bool masked = first_key + C::kWarpRows > shape.seen(t0);
      const std::uint32_t queries =
          stages +
          static_cast<std::uint32_t>(step % 2 * C::kStageBytes + chunk * kChunk * kWidth * 2);
      const std::uint32_t douts = queries + C::kStepBytes;
      // The two queries of each of the lane's accumulators: log-sum-exp, delta, and again.
      const float4* const row_stats = reinterpret_cast<const float4*>(
          shared + (stats - keys) + step % 2 * kStatsBytes<C> + chunk * kChunk * sizeof(float2) +
          lane % 4 * sizeof(float4));

      Accumulators<1, kChunk> p, ds;
      score(p, own_keys, lane_in_columns<kWidth>(queries));
      const auto mask = [&](Accumulators<1, kChunk>& x) {
        x.each([&](float& y, int row, int column) {
          if (first_key + row >= shape.seen(t0 + column)) y = 0;
        });
      };
#pragma unroll
      for (int n = 0; n < kChunk / 8; ++n) {
        const float4 two = row_stats[4 * n];
#pragma unroll
        for (int e = 0; e < 4; ++e)
          p.v[0][n][e] = exp2_fast(fmaf(p.v[0][n][e], scale, -(e % 2 == 0 ? two.x : two.z)));
      }
      if (masked) mask(p);
      KeptProbabilities<1, kChunk> kept;
      if constexpr (kDropout) {
        const int h = key_head * group + step / steps_a_head;
        kept.draw_by_columns(DropoutDraws(a.dropout, shape, b, h), t0, first_key);
        Accumulators<1, kChunk> surviving = p;
        kept.apply(surviving);
        accumulate<1, C::kOut, kWidth, kChunk>(dv, surviving,
                                               lane_in_rows<kWidth>(douts) ^ slice_offset);
      } else {
        accumulate<1, C::kOut, kWidth, kChunk>(dv, p, lane_in_rows<kWidth>(douts) ^ slice_offset);
      }
      score(ds, own_values, lane_in_columns<kWidth>(douts));
      if constexpr (kDropout) kept.apply(ds);
#pragma unroll
      for (int n = 0; n < kChunk / 8; ++n) {
        const float4 two = row_stats[4 * n];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float delta = e % 2 == 0 ? two.y : two.w;
          ds.v[0][n][e] = p.v[0][n][e] * fmaf(ds.v[0][n][e], a.dropout.scale, -delta);
        }
      }
      if (masked) mask(ds);  // whatever dout · v is there
      accumulate<1, C::kOut, kWidth, kChunk>(dk, ds, lane_in_rows<kWidth>(queries) ^ slice_offset);
    }
  }

  // The warp's keys and values are no longer needed where they lay.
  const int first_column = slice * C::kOut;
  store_rows(
      dk, [&](int, int) { return shape.scale; }, shared + warp_offset,
      a.dk.row(b, key_head, first_key) + first_column, a.dk.row_stride, shape.keys - first_key,
      shape.width - first_column, a.dk_aligned);
  store_rows(
      dv, [&](int, int) { return a.dropout.scale; }, shared + C::kOwnBytes + warp_offset,
      a.dv.row(b, key_head, first_key) + first_column, a.dv.row_stride, shape.keys - first_key,
      shape.width - first_column, a.dv_aligned);
}

template <class C, bool kDropout>
__global__ void __launch_bounds__(C::kThreads, C::kBlocks)
    query_gradients(const __grid_constant__ BackwardArguments<bfloat16> a) {
  constexpr int kWidth = C::kWidth, kRowTiles = C::kRowTiles, kStep = C::kStep;
  static_assert(C::kOut == kWidth);
  extern __shared__ __align__(1024) char shared[];
  const AttentionShape& shape = a.shape;
  const int tiles = (shape.queries + C::kOwn - 1) / C::kOwn;
  const int head = static_cast<int>(blockIdx.x) / tiles;
  const int t0 = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * C::kOwn;
  const int b = head / shape.heads, h = head % shape.heads, key_head = shape.key_head(h);
  const int warp = static_cast<int>(threadIdx.x / kWarp),
            lane = static_cast<int>(threadIdx.x % kWarp);
  const int first_row = t0 + warp * C::kWarpRows;

  const std::uint32_t queries = shared_address(shared), douts = queries + C::kOwnBytes;
  const std::uint32_t stages = douts + C::kOwnBytes;
  const int seen = shape.seen(::min(t0 + C::kOwn, shape.queries) - 1);
  const int steps = seen > 0 ? (seen + kStep - 1) / kStep : 0;
  const auto start_copy = [&](int step) {
    const int s0 = step * kStep;
    const std::uint32_t to = stages + static_cast<std::uint32_t>(step % 2 * C::kStageBytes);
    copy_tile<kStep, kWidth, C::kThreads>(to, a.k.row(b, key_head, s0), a.k.row_stride,
                                          shape.keys - s0, shape.width);
    copy_tile<kStep, kWidth, C::kThreads>(to + C::kStepBytes, a.v.row(b, key_head, s0),
                                          a.v.row_stride, shape.keys - s0, shape.width);
  };
  copy_tile<C::kOwn, kWidth, C::kThreads>(queries, a.q.row(b, h, t0), a.q.row_stride,
                                          shape.queries - t0, shape.width);
  copy_tile<C::kOwn, kWidth, C::kThreads>(douts, a.dout.row(b, h, t0), a.dout.row_stride,
                                          shape.queries - t0, shape.width);
  commit_copies();
  if (steps > 0) start_copy(0);
  commit_copies();

  float lse[kRowTiles][2], delta[kRowTiles][2];
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int t = first_row + 16 * i + 8 * half + lane / 4;
      const float2 row = t < shape.queries
                             ? a.stats[static_cast<std::int64_t>(head) * a.padded_queries + t]
                             : float2{INFINITY, 0};
      lse[i][half] = row.x;
      delta[i][half] = row.y;
    }

  const int warp_offset = warp * C::kWarpRows * kWidth * 2;
  const LeftRows<kRowTiles, kWidth> own_queries(queries + static_cast<std::uint32_t>(warp_offset));
  const LeftRows<kRowTiles, kWidth> own_douts(douts + static_cast<std::uint32_t>(warp_offset));
  wait_for_copies<1>();
  __syncthreads();
  Accumulators<kRowTiles, kWidth> dq;
  dq.clear();
  const float scale = shape.scale * kLog2E;
  const DropoutDraws draws(a.dropout, shape, b, h);
  const int warp_seen = shape.seen(first_row + C::kWarpRows - 1);

  for (int step = 0; step < steps; ++step) {
    wait_for_copies<0>();
    __syncthreads();  // the stage is filled, and the other one is no longer read
    if (step + 1 < steps) start_copy(step + 1);
    commit_copies();
    const int s0 = step * kStep;
    if (s0 >= warp_seen) continue;
    const bool masked = s0 + kStep > shape.seen(first_row);
    const std::uint32_t keys = stages + static_cast<std::uint32_t>(step % 2 * C::kStageBytes);
    const std::uint32_t values = keys + C::kStepBytes;

    Accumulators<kRowTiles, kStep> p, ds;
    score(p, own_queries, lane_in_columns<kWidth>(keys));
    score(ds, own_douts, lane_in_columns<kWidth>(values));
    if constexpr (kDropout) {
      KeptProbabilities<kRowTiles, kStep> kept;
      kept.draw_by_rows(draws, first_row, s0);
      kept.apply(ds);
    }
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float probability = exp2_fast(fmaf(p.v[i][n][e], scale, -lse[i][e / 2]));
          ds.v[i][n][e] = probability * fmaf(ds.v[i][n][e], a.dropout.scale, -delta[i][e / 2]);
        }
    if (masked)  // whatever dout · v is there
      ds.each([&](float& x, int row, int column) {
        if (s0 + column >= shape.seen(first_row + row)) x = 0;
      });
    accumulate<kRowTiles, kWidth, kWidth, kStep>(dq, ds, lane_in_rows<kWidth>(keys));
  }

  store_rows(
      dq, [&](int, int) { return shape.scale; }, shared + warp_offset, a.dq.row(b, h, first_row),
      a.dq.row_stride, shape.queries - first_row, shape.width, a.dq_aligned);
}

template <class Keys, class Queries, bool kDropout>
void launch_both(const BackwardArguments<bfloat16>& a) {
  static_assert(Keys::kStep <= kStatsPadding);
  const AttentionShape& s = a.shape;
  launch_tiles(key_gradients<Keys, kDropout>,
               ceil_div(s.keys, Keys::kOwn) * s.batch * s.key_heads * (Keys::kWidth / Keys::kOut),
               Keys::kThreads, Keys::kShared + 2 * kStatsBytes<Keys>, a);
  launch_tiles(query_gradients<Queries, kDropout>,
               ceil_div(s.queries, Queries::kOwn) * s.batch * s.heads, Queries::kThreads,
               Queries::kShared, a);
}
template <class Keys, class Queries>
void launch_backward(const BackwardArguments<bfloat16>& a) {
  if (a.dropout.active())
    launch_both<Keys, Queries, true>(a);
  else
    launch_both<Keys, Queries, false>(a);
}

}  // namespace

void launch_attention_backward(const BackwardArguments<bfloat16>& a) {
  if (wgmma_attention_supports(a.shape)) {
    launch_key_gradients_wgmma(a);
    launch_query_gradients_wgmma(a);
    return;
  }
  launch_backward<KeyTiling256, QueryTiling256>(a);
}

}  // namespace nibble::cuda
