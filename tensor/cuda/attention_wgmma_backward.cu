// Attention backward in bf16 on warpgroup products, head widths up to 128 without dropout; the
// formulas stand in attention_bf16_backward.cu, whose two kernels these are: one owns keys and
// streams the queries of all heads of its group (dK, dV), one owns queries and streams keys (dQ),
// so that every sum has one owner and a fixed order. dK's kernel computes transposed scores:
// in both, P and dS are left operands of the next products as they stand, and nothing is exchanged
// through shared memory.
// Moves every operand once from DRAM (streamed tiles again from L2); computes 14·T·S·D operations a
// head (half of that causal). Roofline: tensor cores at 4096 operations a cycle; at D = 64 the
// exponentials, two a score at 16 a cycle, take 4/7 of that. Measured by tests/bench/attention.cpp.
#include "tensor/cuda/attention_wgmma.cuh"

namespace nibble::cuda {
namespace {

constexpr float kLog2E = 1.44269504f;

// Own operands, then stages of two tiles of kStep rows that stream past.
template <int kWidth_, int kGroups_, int kStep_, int kStages_>
struct Tiling : Roles<kGroups_, 1> {
  static constexpr int kWidth = kWidth_, kStep = kStep_, kStages = kStages_;
  static constexpr int kGroupBytes = kGroupRows * kWidth * 2;
  static constexpr int kOwnBytes = kGroups_ * kGroupBytes, kStepBytes = kStep * kWidth * 2;
  static constexpr int kStatsBytes = kStep * static_cast<int>(sizeof(float2));
  static constexpr int kTiles = 2 * kOwnBytes + 2 * kStages * kStepBytes;
  static constexpr int kStats = kTiles;
  static constexpr int kBarriers = kStats + kStages * kStatsBytes;
  static constexpr int kShared = kBarriers + 8 + Stages<kStages, Tiling>::kBytes;
};
using KeyTiling64 = Tiling<64, 2, 64, 4>;
using KeyTiling128 = Tiling<128, 2, 64, 2>;
using QueryTiling64 = Tiling<64, 3, 64, 4>;
using QueryTiling128 = Tiling<128, 2, 64, 2>;

struct Maps {
  BackwardArguments<bfloat16> a;
  CUtensorMap q, k, v, dout;
};

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1) key_gradients(const __grid_constant__ Maps maps) {
  constexpr int kWidth = C::kWidth, kStep = C::kStep;
  static_assert(kStatsPadding % kStep == 0);
  extern __shared__ __align__(1024) char shared[];
  const BackwardArguments<bfloat16>& a = maps.a;
  const AttentionShape& shape = a.shape;
  const int tiles = (shape.keys + C::kRows - 1) / C::kRows;
  const int tile = static_cast<int>(blockIdx.x) % tiles;  // the first see most queries
  const int head = static_cast<int>(blockIdx.x) / tiles;
  const int b = head / shape.key_heads, key_head = head % shape.key_heads;
  const int heads = shape.heads / shape.key_heads;
  const int s0 = tile * C::kRows;

  const std::uint32_t keys = shared_address(shared), values = keys + C::kOwnBytes;
  const std::uint32_t queries = values + C::kOwnBytes;
  const std::uint32_t douts = queries + C::kStages * C::kStepBytes;
  const std::uint32_t own_full = keys + C::kBarriers;
  const Stages<C::kStages, C> stages(own_full + 8);
  if (threadIdx.x == 0) {
    hopper::init_barrier(own_full, 1);
    stages.init();
    hopper::fence_barrier_init();
  }
  __syncthreads();
  const int warp = C::warp(), group = warp / kGroupWarps;

  // Queries before this one see none of the tile's keys.
  const int first_query =
      shape.causal ? ::max(0, s0 - (shape.keys - shape.queries)) / kStep * kStep : 0;
  const int steps_a_head = (::max(shape.queries - first_query, 0) + kStep - 1) / kStep;
  const int steps = heads * steps_a_head;
  if (group == C::kGroups) {
    C::begin_producer();
    if (!C::copies()) return;
    hopper::arrive_expecting(own_full, 2 * C::kOwnBytes);
    for (int group = 0; group < C::kGroups; ++group) {
      const auto offset = static_cast<std::uint32_t>(group * C::kGroupBytes);
      const int row = s0 + group * kGroupRows;
      load_rows<kGroupRows, kWidth>(keys + offset, maps.k, own_full, row, key_head, b);
      load_rows<kGroupRows, kWidth>(values + offset, maps.v, own_full, row, key_head, b);
    }
    for (int step = 0; step < steps; ++step) {
      const int h = key_head * heads + step / steps_a_head;
      const int t0 = first_query + step % steps_a_head * kStep;
      const std::uint32_t full = stages.fill(step, 2 * C::kStepBytes + C::kStatsBytes);
      const std::uint32_t stage = stages.of(step), offset = stage * C::kStepBytes;
      load_rows<kStep, kWidth>(queries + offset, maps.q, full, t0, h, b);
      hopper::load_bytes(
          keys + C::kStats + stage * C::kStatsBytes,
          a.stats + static_cast<std::int64_t>(b * shape.heads + h) * a.padded_queries + t0,
          C::kStatsBytes, full);
      load_rows<kStep, kWidth>(douts + offset, maps.dout, full, t0, h, b);
    }
    return;
  }

  C::begin_consumer();
  const int group_key = s0 + group * kGroupRows, first_key = s0 + warp * 16;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const auto own = static_cast<std::uint32_t>(group * C::kGroupBytes);
  const float scale = shape.scale * kLog2E;
  Accumulators<1, kWidth> dk, dv;
  Accumulators<1, kStep> p, ds;
  Weights<kStep> weights;
  dk.clear();
  dv.clear();
  hopper::wait(own_full, 0);

  for (int step = 0; step < steps; ++step) {
    const int t0 = first_query + step % steps_a_head * kStep;
    stages.wait(step);
    if (group_key >= shape.seen(t0 + kStep - 1)) {  // masked for all these queries
      stages.release(step);
      continue;
    }
    const std::uint32_t offset = stages.of(step) * C::kStepBytes;
    keep(p), keep(ds);
    start_scores<kWidth, kStep>(p, keys + own, queries + offset);
    hopper::wgmma_commit();
    start_scores<kWidth, kStep>(ds, values + own, douts + offset);
    hopper::wgmma_commit();
    const bool masked = group_key + kGroupRows > shape.seen(t0);
    const auto mask = [&](Accumulators<1, kStep>& x) {
      x.each([&](float& y, int row, int column) {
        if (first_key + row >= shape.seen(t0 + column)) y = 0;
      });
    };
    // The two queries of each of the lane's accumulators: log-sum-exp, delta, and again.
    const float4* const row_stats = reinterpret_cast<const float4*>(
        shared + C::kStats + stages.of(step) * C::kStatsBytes + lane % 4 * sizeof(float4));

    hopper::wgmma_wait<1>();
    keep(p);
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n) {
      const float4 two = row_stats[4 * n];
#pragma unroll
      for (int e = 0; e < 4; ++e)
        p.v[0][n][e] = exp2_fast(fmaf(p.v[0][n][e], scale, -(e % 2 == 0 ? two.x : two.z)));
    }
    if (masked) mask(p);
    weights.pack(p);
    hopper::wgmma_wait<0>();
    keep(ds), keep(dv);
    start_sums<kWidth, kStep>(dv, weights, douts + offset);
    hopper::wgmma_commit();
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n) {
      const float4 two = row_stats[4 * n];
#pragma unroll
      for (int e = 0; e < 4; ++e)
        ds.v[0][n][e] = p.v[0][n][e] * (ds.v[0][n][e] - (e % 2 == 0 ? two.y : two.w));
    }
    if (masked) mask(ds);  // whatever dout · v is there
    Weights<kStep> gradients;
    gradients.pack(ds);
    keep(dk);
    start_sums<kWidth, kStep>(dk, gradients, queries + offset);
    hopper::wgmma_commit();
    hopper::wgmma_wait<0>();
    keep(dv), keep(dk);
    stages.release(step);
  }

  // The group's keys and values are no longer needed where they lay.
  sync_group();
  char* const staging = shared + warp * 16 * kWidth * 2;
  store_rows(
      dk, [&](int, int) { return shape.scale; }, staging, a.dk.row(b, key_head, first_key),
      a.dk.row_stride, shape.keys - first_key, shape.width, a.dk_aligned);
  store_rows(
      dv, [](int, int) { return 1.0f; }, staging + C::kOwnBytes, a.dv.row(b, key_head, first_key),
      a.dv.row_stride, shape.keys - first_key, shape.width, a.dv_aligned);
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    query_gradients(const __grid_constant__ Maps maps) {
  constexpr int kWidth = C::kWidth, kStep = C::kStep;
  extern __shared__ __align__(1024) char shared[];
  const BackwardArguments<bfloat16>& a = maps.a;
  const AttentionShape& shape = a.shape;
  const int tiles = (shape.queries + C::kRows - 1) / C::kRows;
  const int head = static_cast<int>(blockIdx.x) / tiles;
  const int t0 = (tiles - 1 - static_cast<int>(blockIdx.x) % tiles) * C::kRows;
  const int b = head / shape.heads, h = head % shape.heads, key_head = shape.key_head(h);

  const std::uint32_t queries = shared_address(shared), douts = queries + C::kOwnBytes;
  const std::uint32_t keys = douts + C::kOwnBytes, values = keys + C::kStages * C::kStepBytes;
  const std::uint32_t own_full = queries + C::kBarriers;
  const Stages<C::kStages, C> stages(own_full + 8);
  if (threadIdx.x == 0) {
    hopper::init_barrier(own_full, 1);
    stages.init();
    hopper::fence_barrier_init();
  }
  __syncthreads();
  const int warp = C::warp(), group = warp / kGroupWarps;

  const auto steps_to = [&](int row) { return (::max(shape.seen(row), 0) + kStep - 1) / kStep; };
  const int steps = steps_to(::min(t0 + C::kRows, shape.queries) - 1);
  if (group == C::kGroups) {
    C::begin_producer();
    if (!C::copies()) return;
    hopper::arrive_expecting(own_full, 2 * C::kOwnBytes);
    for (int group = 0; group < C::kGroups; ++group) {
      const auto offset = static_cast<std::uint32_t>(group * C::kGroupBytes);
      const int row = t0 + group * kGroupRows;
      load_rows<kGroupRows, kWidth>(queries + offset, maps.q, own_full, row, h, b);
      load_rows<kGroupRows, kWidth>(douts + offset, maps.dout, own_full, row, h, b);
    }
    for (int step = 0; step < steps; ++step) {
      const std::uint32_t full = stages.fill(step, 2 * C::kStepBytes);
      const std::uint32_t offset = stages.of(step) * C::kStepBytes;
      load_rows<kStep, kWidth>(keys + offset, maps.k, full, step * kStep, key_head, b);
      load_rows<kStep, kWidth>(values + offset, maps.v, full, step * kStep, key_head, b);
    }
    return;
  }

  C::begin_consumer();
  const int group_row = t0 + group * kGroupRows, first_row = t0 + warp * 16;
  const auto own = static_cast<std::uint32_t>(group * C::kGroupBytes);
  const float scale = shape.scale * kLog2E;
  float lse[2], delta[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int t = first_row + 8 * half + static_cast<int>(threadIdx.x % kWarp) / 4;
    const float2 row = t < shape.queries
                           ? a.stats[static_cast<std::int64_t>(head) * a.padded_queries + t]
                           : float2{INFINITY, 0};
    lse[half] = row.x, delta[half] = row.y;
  }
  Accumulators<1, kWidth> dq;
  Accumulators<1, kStep> p, ds;
  Weights<kStep> weights;
  dq.clear();
  hopper::wait(own_full, 0);

  // A group's rows may see less than the block's. The sum of a step runs beside the next scores.
  const int group_steps = ::min(steps, steps_to(group_row + kGroupRows - 1));
  for (int step = 0; step < group_steps; ++step) {
    stages.wait(step);
    const std::uint32_t offset = stages.of(step) * C::kStepBytes;
    keep(p), keep(ds);
    start_scores<kWidth, kStep>(p, queries + own, keys + offset);
    hopper::wgmma_commit();
    start_scores<kWidth, kStep>(ds, douts + own, values + offset);
    hopper::wgmma_commit();
    hopper::wgmma_wait<1>();
    keep(p), keep(dq);
    if (step > 0) stages.release(step - 1);
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) p.v[0][n][e] = exp2_fast(fmaf(p.v[0][n][e], scale, -lse[e / 2]));
    hopper::wgmma_wait<0>();
    keep(ds);
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) ds.v[0][n][e] = p.v[0][n][e] * (ds.v[0][n][e] - delta[e / 2]);
    const int s0 = step * kStep;
    if (s0 + kStep > shape.seen(group_row))  // whatever dout · v is there
      ds.each([&](float& x, int row, int column) {
        if (s0 + column >= shape.seen(first_row + row)) x = 0;
      });
    weights.pack(ds);
    keep(dq);
    start_sums<kWidth, kStep>(dq, weights, keys + offset);
    hopper::wgmma_commit();
  }
  hopper::wgmma_wait<0>();
  keep(dq);
  for (int step = ::max(group_steps - 1, 0); step < steps; ++step) {
    if (step >= group_steps) stages.wait(step);
    stages.release(step);
  }

  // The group's queries are no longer needed where they lay.
  sync_group();
  store_rows(
      dq, [&](int, int) { return shape.scale; }, shared + warp * 16 * kWidth * 2,
      a.dq.row(b, h, first_row), a.dq.row_stride, shape.queries - first_row, shape.width,
      a.dq_aligned);
}

template <class Keys, class Queries>
void launch_both(const BackwardArguments<bfloat16>& a) {
  const AttentionShape& s = a.shape;
  const auto maps = [&](int query_box, int key_box) {
    return Maps{a, map_of(a.q, s, s.queries, s.heads, query_box),
                map_of(a.k, s, s.keys, s.key_heads, key_box),
                map_of(a.v, s, s.keys, s.key_heads, key_box),
                map_of(a.dout, s, s.queries, s.heads, query_box)};
  };
  launch_tiles(key_gradients<Keys>, ceil_div(s.keys, Keys::kRows) * s.batch * s.key_heads,
               Keys::kThreads, Keys::kShared, maps(Keys::kStep, kGroupRows));
  launch_tiles(query_gradients<Queries>, ceil_div(s.queries, Queries::kRows) * s.batch * s.heads,
               Queries::kThreads, Queries::kShared, maps(kGroupRows, Queries::kStep));
}

}  // namespace

void launch_attention_backward_wgmma(const BackwardArguments<bfloat16>& a) {
  if (a.shape.width <= 64)
    launch_both<KeyTiling64, QueryTiling64>(a);
  else
    launch_both<KeyTiling128, QueryTiling128>(a);
}

}  // namespace nibble::cuda
