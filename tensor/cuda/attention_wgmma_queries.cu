// Attention backward in bf16 on warpgroup products, head widths up to 128: the gradients of
// queries. Formulas stand in attention_bf16_backward.cu. A block owns queries and streams keys and
// values past them, so that every sum has one owner and a fixed order. Moves every operand once
// from DRAM (k and v again from L2, once a tile of queries); computes 6·T·S·D operations a head
// (half of that causal). Roofline: tensor cores at 4096 operations a cycle; at D = 64 exponentials
// at 16 a cycle take two thirds of that. Measured by tests/bench/attention.cpp.
#include "tensor/cuda/attention_wgmma_backward.cuh"

namespace nibble::cuda {
namespace {

// At D = 64 two blocks to a multiprocessor: one's first and last steps run beside the other's
// products.
using Tiling64 = BackwardTiling<64, 2, 2, 4, false>;
using Tiling128 = BackwardTiling<128, 2, 1, 4, true>;

template <class C, bool kDropout>
__global__ void __launch_bounds__(C::kThreads, C::kBlocks)
    query_gradients(const __grid_constant__ BackwardMaps maps) {
  constexpr int kWidth = C::kWidth, kStep = C::kStep;
  extern __shared__ __align__(1024) char shared[];
  const BackwardArguments<bfloat16>& a = maps.a;
  const AttentionShape& shape = a.shape;
  const auto [shortness, head] = maps.order.place(static_cast<int>(blockIdx.x));
  const int t0 = (maps.order.tiles - 1 - shortness) * C::kRows;
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
  const auto copy_own = [&] {
    hopper::arrive_expecting(own_full, 2 * C::kOwnBytes);
    for (int i = 0; i < C::kGroups; ++i) {
      const auto offset = static_cast<std::uint32_t>(i * C::kGroupBytes);
      const int row = t0 + i * kGroupRows;
      load_rows<kGroupRows, kWidth>(queries + offset, maps.q, own_full, row, h, b);
      load_rows<kGroupRows, kWidth>(douts + offset, maps.dout, own_full, row, h, b);
    }
  };
  const auto copy = [&](int step) {
    const std::uint32_t full = stages.fill(step, 2 * C::kStepBytes);
    const std::uint32_t offset = stages.of(step) * C::kStepBytes;
    load_rows<kStep, kWidth>(keys + offset, maps.k, full, step * kStep, key_head, b);
    load_rows<kStep, kWidth>(values + offset, maps.v, full, step * kStep, key_head, b);
  };
  if (C::kProducers > 0 && group == C::kGroups) {
    C::begin_producer();
    if (C::copies()) copy_all(copy_own, copy, steps);
    return;
  }
  const auto refill = refill_with<C>(copy_own, copy, steps);
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
  KeptProbabilities<1, kStep> kept;
  const DropoutDraws draws(a.dropout, shape, b, h);
  dq.clear();
  hopper::wait(own_full, 0);

  const auto start = [&](int step) {
    refill(step);
    stages.wait(step);
    const std::uint32_t offset = stages.of(step) * C::kStepBytes;
    keep(p), keep(ds);
    start_scores<kWidth, kStep>(p, queries + own, keys + offset);
    hopper::wgmma_commit();
    start_scores<kWidth, kStep>(ds, douts + own, values + offset);
    hopper::wgmma_commit();
  };
  const auto draw = [&](int step) {
    if constexpr (kDropout) kept.draw_by_rows(draws, first_row, step * kStep);
  };
  const auto to_probabilities = [&] {
    keep(p);
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) p.v[0][n][e] = exp2_fast(fmaf(p.v[0][n][e], scale, -lse[e / 2]));
  };
  const auto to_gradients = [&](int step) {
    keep(ds);
    if constexpr (kDropout) kept.apply(ds);
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        ds.v[0][n][e] = p.v[0][n][e] * fmaf(ds.v[0][n][e], a.dropout.scale, -delta[e / 2]);
    const int s0 = step * kStep;
    if (s0 + kStep > shape.seen(group_row))  // whatever dout · v is there
      ds.each([&](float& x, int row, int column) {
        if (s0 + column >= shape.seen(first_row + row)) x = 0;
      });
  };
  const auto sum = [&](int step) {
    start_sums<kWidth, kStep>(dq, weights, keys + stages.of(step) * C::kStepBytes);
    hopper::wgmma_commit();
  };
  const auto finish_sum = [&](int step) {
    hopper::wgmma_wait<0>();
    keep(dq);
    stages.release(step);
  };

  // A group's rows may see less than the block's.
  const int group_steps = ::min(steps, steps_to(group_row + kGroupRows - 1));
  if constexpr (C::kOverlap) {
    if (group_steps > 0) {
      start(0);
      draw(0);
      hopper::wgmma_wait<1>();
      to_probabilities();
      hopper::wgmma_wait<0>();
      to_gradients(0);
      weights.pack(ds);
      for (int step = 1; step < group_steps; ++step) {
        start(step);
        keep(dq);
        sum(step - 1);
        draw(step);
        hopper::wgmma_wait<2>();
        to_probabilities();
        hopper::wgmma_wait<1>();
        to_gradients(step);
        finish_sum(step - 1);
        weights.pack(ds);
      }
      keep(dq);
      sum(group_steps - 1);
      finish_sum(group_steps - 1);
    }
  } else {
    for (int step = 0; step < group_steps; ++step) {
      start(step);
      draw(step);
      hopper::wgmma_wait<1>();
      to_probabilities();
      hopper::wgmma_wait<0>();
      to_gradients(step);
      weights.pack(ds);
      keep(dq);
      sum(step);
      finish_sum(step);
    }
  }
  for (int step = group_steps; step < steps; ++step) {
    refill(step);
    stages.wait(step);
    stages.release(step);
  }

  // The group's queries are no longer needed where they lay.
  sync_group();
  store_rows(
      dq, [&](int, int) { return shape.scale; }, shared + warp * 16 * kWidth * 2,
      a.dq.row(b, h, first_row), a.dq.row_stride, shape.queries - first_row, shape.width,
      a.dq_aligned);
}

template <class C>
void launch_queries(const BackwardArguments<bfloat16>& a) {
  const AttentionShape& s = a.shape;
  const auto tiles = static_cast<int>(ceil_div(s.queries, C::kRows));
  const int heads = s.batch * s.heads;
  const TileOrder order(tiles, heads, s.causal, std::int64_t{multiprocessors()} * C::kBlocks);
  launch_tiles(a.dropout.active() ? query_gradients<C, true> : query_gradients<C, false>,
               std::int64_t{tiles} * heads, C::kThreads, C::kShared,
               backward_maps(a, order, kGroupRows, C::kStep));
}

}  // namespace

void launch_query_gradients_wgmma(const BackwardArguments<bfloat16>& a) {
  if (a.shape.width <= 64)
    launch_queries<Tiling64>(a);
  else
    launch_queries<Tiling128>(a);
}

}  // namespace nibble::cuda
