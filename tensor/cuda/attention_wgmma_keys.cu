// Attention backward in bf16 on warpgroup products, head widths up to 128: the gradients of keys
// and values. Formulas stand in attention_bf16_backward.cu. A block owns keys and streams the
// queries of all heads of their group past them, so that every sum has one owner and a fixed order.
// Scores are computed transposed (rows are keys): packed, P and dS are left operands as they stand,
// and nothing is exchanged through shared memory. Moves every operand once from DRAM (q and dout
// again from L2, once a tile of keys); computes 8·T·S·D operations a head (half of that causal).
// Roofline: tensor cores at 4096 operations a cycle; at D = 64 exponentials at 16 a cycle take half
// of that. Measured by tests/bench/attention.cpp.
#include "tensor/cuda/attention_wgmma_backward.cuh"

namespace nibble::cuda {
namespace {

// At D = 64 one warpgroup to a block and three blocks: a block's first and last steps run beside
// the others' products.
using Tiling64 = BackwardTiling<64, 1, 3, 3, false>;
using Tiling128 = BackwardTiling<128, 2, 1, 4, true>;

template <class C, bool kDropout>
__global__ void __launch_bounds__(C::kThreads, C::kBlocks)
    key_gradients(const __grid_constant__ BackwardMaps maps) {
  constexpr int kWidth = C::kWidth, kStep = C::kStep;
  static_assert(kStatsPadding % kStep == 0);
  extern __shared__ __align__(1024) char shared[];
  const BackwardArguments<bfloat16>& a = maps.a;
  const AttentionShape& shape = a.shape;
  const auto [tile, head] = maps.order.place(static_cast<int>(blockIdx.x));
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
  const auto copy_own = [&] {
    hopper::arrive_expecting(own_full, 2 * C::kOwnBytes);
    for (int i = 0; i < C::kGroups; ++i) {
      const auto offset = static_cast<std::uint32_t>(i * C::kGroupBytes);
      const int row = s0 + i * kGroupRows;
      load_rows<kGroupRows, kWidth>(keys + offset, maps.k, own_full, row, key_head, b);
      load_rows<kGroupRows, kWidth>(values + offset, maps.v, own_full, row, key_head, b);
    }
  };
  const auto copy = [&](int step) {
    const int h = key_head * heads + step / steps_a_head;
    const int t0 = first_query + step % steps_a_head * kStep;
    const std::uint32_t full = stages.fill(step, 2 * C::kStepBytes + C::kStatsBytes);
    const std::uint32_t stage = stages.of(step), offset = stage * C::kStepBytes;
    const std::int64_t row = static_cast<std::int64_t>(b * shape.heads + h) * a.padded_queries + t0;
    load_rows<kStep, kWidth>(queries + offset, maps.q, full, t0, h, b);
    hopper::load_bytes(keys + C::kStats + stage * C::kStatsBytes, a.stats + row, C::kStatsBytes,
                       full);
    load_rows<kStep, kWidth>(douts + offset, maps.dout, full, t0, h, b);
  };
  if (C::kProducers > 0 && group == C::kGroups) {
    C::begin_producer();
    if (C::copies()) copy_all(copy_own, copy, steps);
    return;
  }
  const auto refill = refill_with<C>(copy_own, copy, steps);
  C::begin_consumer();
  const int group_key = s0 + group * kGroupRows, first_key = s0 + warp * 16;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const auto own = static_cast<std::uint32_t>(group * C::kGroupBytes);
  const float scale = shape.scale * kLog2E;
  Accumulators<1, kWidth> dk, dv;
  Accumulators<1, kStep> p, ds;
  Weights<kStep> weights, gradients;
  KeptProbabilities<1, kStep> kept;
  dk.clear();
  dv.clear();
  hopper::wait(own_full, 0);

  // Of the two queries of a lane's accumulators n: log-sum-exp, delta, and again.
  const auto row_stats = [&](int step) {
    return reinterpret_cast<const float4*>(shared + C::kStats + stages.of(step) * C::kStatsBytes +
                                           lane % 4 * sizeof(float4));
  };
  const auto mask = [&](Accumulators<1, kStep>& x, int t0) {
    if (group_key + kGroupRows > shape.seen(t0))
      x.each([&](float& y, int row, int column) {
        if (first_key + row >= shape.seen(t0 + column)) y = 0;
      });
  };
  const auto start = [&](int step) {
    const std::uint32_t offset = stages.of(step) * C::kStepBytes;
    keep(p), keep(ds);
    start_scores<kWidth, kStep>(p, keys + own, queries + offset);
    hopper::wgmma_commit();
    start_scores<kWidth, kStep>(ds, values + own, douts + offset);
    hopper::wgmma_commit();
  };
  const auto to_probabilities = [&](int step, int t0) {
    keep(p);
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n) {
      const float4 two = row_stats(step)[4 * n];
#pragma unroll
      for (int e = 0; e < 4; ++e)
        p.v[0][n][e] = exp2_fast(fmaf(p.v[0][n][e], scale, -(e % 2 == 0 ? two.x : two.z)));
    }
    mask(p, t0);
  };
  const auto to_gradients = [&](int step, int t0) {
    keep(ds);
    if constexpr (kDropout) kept.apply(ds);
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n) {
      const float4 two = row_stats(step)[4 * n];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float delta = e % 2 == 0 ? two.y : two.w;
        ds.v[0][n][e] = p.v[0][n][e] * fmaf(ds.v[0][n][e], a.dropout.scale, -delta);
      }
    }
    mask(ds, t0);  // whatever dout · v is there
  };
  const auto pack_weights = [&] {
    weights.pack(p);
    if constexpr (kDropout) kept.apply(weights.v);
  };
  const auto sum_values = [&](int step) {
    start_sums<kWidth, kStep>(dv, weights, douts + stages.of(step) * C::kStepBytes);
    hopper::wgmma_commit();
  };
  const auto sum_keys = [&](int step) {
    start_sums<kWidth, kStep>(dk, gradients, queries + stages.of(step) * C::kStepBytes);
    hopper::wgmma_commit();
  };

  for (int h = 0, step = 0; h < heads; ++h) {
    const DropoutDraws draws(a.dropout, shape, b, key_head * heads + h);
    for (int t0 = first_query; t0 < shape.queries; t0 += kStep, ++step) {
      refill(step);
      stages.wait(step);
      if (group_key >= shape.seen(t0 + kStep - 1)) {  // masked, though not for all the block
        stages.release(step);
        continue;
      }
      start(step);
      if constexpr (kDropout) kept.draw_by_columns(draws, t0, first_key);
      hopper::wgmma_wait<1>();
      to_probabilities(step, t0);
      if constexpr (C::kOverlap) {
        pack_weights();
        hopper::wgmma_wait<0>();
        keep(dv);
        sum_values(step);
        to_gradients(step, t0);
        gradients.pack(ds);
      } else {  // weights take the registers that p and ds leave
        hopper::wgmma_wait<0>();
        to_gradients(step, t0);
        pack_weights(), gradients.pack(ds);
        keep(dv);
        sum_values(step);
      }
      keep(dk);
      sum_keys(step);
      hopper::wgmma_wait<0>();
      keep(dv), keep(dk);
      stages.release(step);
    }
  }

  // The group's keys and values are no longer needed where they lay.
  sync_group();
  char* const staging = shared + warp * 16 * kWidth * 2;
  store_rows(
      dk, [&](int, int) { return shape.scale; }, staging, a.dk.row(b, key_head, first_key),
      a.dk.row_stride, shape.keys - first_key, shape.width, a.dk_aligned);
  store_rows(
      dv, [&](int, int) { return a.dropout.scale; }, staging + C::kOwnBytes,
      a.dv.row(b, key_head, first_key), a.dv.row_stride, shape.keys - first_key, shape.width,
      a.dv_aligned);
}

template <class C>
void launch_keys(const BackwardArguments<bfloat16>& a) {
  const AttentionShape& s = a.shape;
  const auto tiles = static_cast<int>(ceil_div(s.keys, C::kRows));
  const int heads = s.batch * s.key_heads;
  const TileOrder order(tiles, heads, s.causal, std::int64_t{multiprocessors()} * C::kBlocks);
  launch_tiles(a.dropout.active() ? key_gradients<C, true> : key_gradients<C, false>,
               std::int64_t{tiles} * heads, C::kThreads, C::kShared,
               backward_maps(a, order, C::kStep, kGroupRows));
}

}  // namespace

void launch_key_gradients_wgmma(const BackwardArguments<bfloat16>& a) {
  if (a.shape.width <= 64)
    launch_keys<Tiling64>(a);
  else
    launch_keys<Tiling128>(a);
}

}  // namespace nibble::cuda
