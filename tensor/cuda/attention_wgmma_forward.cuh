// Attention forward in bf16 on warpgroup products, head widths up to 128: a block owns 64 queries a
// consumer warpgroup and streams keys and values past them from the last that they see to the
// first, so that only the first steps are masked. A warpgroup starts the next step's scores before
// it sums this step's values, and its softmax runs beside that sum and the other groups' products
// (after FlashAttention-3, Shah et al. 2024). Scores and sums are f32; probabilities are rounded to
// bf16. Moves q, k, v and out once (keys and values again from L2, once a tile of queries);
// computes 4·T·S·D operations a head (half of that causal). Roofline: tensor cores at 4096
// operations a cycle; at D = 64 exponentials at 16 a cycle take as long.
// Measured by tests/bench/attention.cpp.
#pragma once

#include "tensor/cuda/attention_dropout.cuh"
#include "tensor/cuda/attention_softmax.cuh"
#include "tensor/cuda/attention_wgmma.cuh"

namespace nibble::cuda {

template <int kWidth_, int kGroups_, int kKeys_, int kBlocks_, int kStages_>
struct ForwardTiling : Roles<kGroups_, kBlocks_> {
  static constexpr int kWidth = kWidth_, kKeys = kKeys_, kStages = kStages_;
  static constexpr int kGroupBytes = kGroupRows * kWidth * 2, kStepBytes = kKeys * kWidth * 2;
  static constexpr int kQueryBytes = kGroups_ * kGroupBytes;
  static constexpr int kTiles = kQueryBytes + 2 * kStages * kStepBytes;
  static constexpr int kShared = kTiles + 8 + 2 * Stages<kStages, ForwardTiling>::kBytes;
};
// At D = 64 two blocks to a multiprocessor: one's first and last steps run beside the other's
// products.
using ForwardTiling64 = ForwardTiling<64, 2, 64, 2, 5>;
using ForwardTiling128 = ForwardTiling<128, 2, 128, 1, 3>;

// What a kernel does with a block's finished rows besides storing them. Blocks of kHeads heads form
// a cluster; kShared: bytes of shared memory of its own.
struct NoEpilogue {
  static constexpr int kHeads = 1, kShared = 0;
  struct Place {
    int b, h, t0, warp;
  };
  // By consumers. `rows`: the block's, bf16, as store_rows staged them, those of the caller's warp
  // complete; `scratch` begins at a multiple of 16 bytes.
  template <class C>
  __device__ void finish(const Place&, const char* /*rows*/, char* /*scratch*/) const {}
};

template <class C>
constexpr int scratch_offset() {
  return (C::kShared + 15) / 16 * 16;
}

template <class Epilogue>
struct ForwardMaps {
  ForwardArguments<bfloat16> a;
  TileOrder order;  // of clusters
  Epilogue epilogue;
  CUtensorMap q, k, v;
};

template <class C, bool kDropout, class Epilogue>
__global__ void __launch_bounds__(C::kThreads, C::kBlocks)
    attention_wgmma(const __grid_constant__ ForwardMaps<Epilogue> maps) {
  constexpr int kWidth = C::kWidth, kKeys = C::kKeys;
  extern __shared__ __align__(1024) char shared[];
  const ForwardArguments<bfloat16>& a = maps.a;
  const AttentionShape& shape = a.shape;
  constexpr int kHeads = Epilogue::kHeads;
  const int block = static_cast<int>(blockIdx.x);
  const auto [shortness, heads] = maps.order.place(block / kHeads);
  const int head = heads * kHeads + block % kHeads;
  const int t0 = (maps.order.tiles - 1 - shortness) * C::kRows;
  const int b = head / shape.heads, h = head % shape.heads, key_head = shape.key_head(h);

  const std::uint32_t queries = shared_address(shared), keys = queries + C::kQueryBytes;
  const std::uint32_t values = keys + C::kStages * C::kStepBytes;
  const std::uint32_t queries_full = queries + C::kTiles;
  const Stages<C::kStages, C> key_stages(queries_full + 8);
  const Stages<C::kStages, C> value_stages(queries_full + 8 + Stages<C::kStages, C>::kBytes);
  if (threadIdx.x == 0) {
    hopper::init_barrier(queries_full, 1);
    key_stages.init();
    value_stages.init();
    hopper::fence_barrier_init();
  }
  if constexpr (kHeads > 1) hopper::cluster_arrive();  // the epilogue waits
  __syncthreads();
  const int warp = C::warp(), group = warp / kGroupWarps;

  // Step i is of the keys from (steps - 1 - i) · kKeys on.
  const int steps =
      (::max(shape.seen(::min(t0 + C::kRows, shape.queries) - 1), 0) + kKeys - 1) / kKeys;
  const auto first_key = [&](int step) { return (steps - 1 - step) * kKeys; };
  const auto copy_queries = [&] {
    hopper::arrive_expecting(queries_full, C::kQueryBytes);
    for (int i = 0; i < C::kGroups; ++i)
      load_rows<kGroupRows, kWidth>(queries + static_cast<std::uint32_t>(i * C::kGroupBytes),
                                    maps.q, queries_full, t0 + i * kGroupRows, h, b);
  };
  const auto copy = [&](int step) {
    const std::uint32_t offset = key_stages.of(step) * C::kStepBytes;
    load_rows<kKeys, kWidth>(keys + offset, maps.k, key_stages.fill(step, C::kStepBytes),
                             first_key(step), key_head, b);
    load_rows<kKeys, kWidth>(values + offset, maps.v, value_stages.fill(step, C::kStepBytes),
                             first_key(step), key_head, b);
  };
  if (C::kProducers > 0 && group == C::kGroups) {
    C::begin_producer();
    if (C::copies()) copy_all(copy_queries, copy, steps);
    return;
  }
  const auto refill = refill_with<C>(copy_queries, copy, steps);
  C::begin_consumer();
  const int group_row = t0 + group * kGroupRows, first_row = t0 + warp * 16;
  const std::uint32_t own = queries + static_cast<std::uint32_t>(group * C::kGroupBytes);
  const float scale = fabsf(shape.scale) * 1.44269504f;
  Accumulators<1, kKeys> scores;
  Accumulators<1, kWidth> out;
  Weights<kKeys> weights;
  OnlineSoftmax<1> softmax;
  KeptProbabilities<1, kKeys> kept;
  const DropoutDraws draws(a.dropout, shape, b, h);
  out.clear();

  const auto start = [&](int step) {
    key_stages.wait(step);
    start_scores<kWidth, kKeys>(scores, own, keys + key_stages.of(step) * C::kStepBytes);
    hopper::wgmma_commit();
  };
  const auto sum = [&](int step) {
    value_stages.wait(step);
    start_sums<kWidth, kKeys>(out, weights, values + value_stages.of(step) * C::kStepBytes);
    hopper::wgmma_commit();
  };
  const auto draw = [&](int step) {
    if constexpr (kDropout) kept.draw_by_rows(draws, first_row, first_key(step));
  };
  // The running maximum is of unscaled scores: a negative scale moves its sign into them.
  const auto normalize = [&](int step) {
    const int s0 = first_key(step);
    if (shape.scale < 0) scores.each([](float& x, int, int) { x = -x; });
    if (s0 + kKeys > shape.seen(group_row))
      scores.each([&](float& x, int row, int column) {
        if (s0 + column >= shape.seen(first_row + row)) x = -INFINITY;
      });
    softmax.update(scores, scale);
  };

  const auto pack = [&] {
    weights.pack(scores);
    if constexpr (kDropout) kept.apply(weights.v);
  };

  // A group's rows may see less than the block's.
  const int group_seen = ::max(shape.seen(group_row + kGroupRows - 1), 0);
  const int first_step = steps - ::min(steps, (group_seen + kKeys - 1) / kKeys);
  for (int step = 0; step < first_step; ++step) {
    refill(step);
    key_stages.wait(step), key_stages.release(step);
    value_stages.wait(step), value_stages.release(step);
  }
  hopper::wait(queries_full, 0);
  if (first_step < steps) {
    refill(first_step);
    start(first_step);
    draw(first_step);
    hopper::wgmma_wait<0>();
    keep(scores);
    key_stages.release(first_step);
    normalize(first_step);
    pack();
    for (int step = first_step + 1; step < steps; ++step) {
      refill(step);
      keep(scores), keep(out);
      start(step);
      sum(step - 1);
      draw(step);
      hopper::wgmma_wait<1>();
      keep(scores);
      key_stages.release(step);
      normalize(step);
      hopper::wgmma_wait<0>();
      keep(out);
      value_stages.release(step - 1);
      softmax.rescale(out);
      pack();
    }
    keep(out);
    sum(steps - 1);
    hopper::wgmma_wait<0>();
    keep(out);
  }

  softmax.finish();
  softmax.store_lse(a.lse + static_cast<std::int64_t>(head) * shape.queries, first_row,
                    shape.queries, fabsf(shape.scale));
  // A query without keys gives 0. The group's queries are no longer needed where they lay.
  sync_group();
  const auto factor = [&](int, int half) {
    return softmax.sum[0][half] == 0 ? 0.0f : a.dropout.scale / softmax.sum[0][half];
  };
  store_rows(out, factor, shared + warp * 16 * kWidth * 2, a.out.row(b, h, first_row),
             a.out.row_stride, shape.queries - first_row, shape.width, a.out_aligned);
  maps.epilogue.template finish<C>({b, h, t0, warp}, shared, shared + scratch_offset<C>());
}

template <class C, class Epilogue>
void launch_forward(const ForwardArguments<bfloat16>& a, const Epilogue& epilogue) {
  const AttentionShape& s = a.shape;
  const auto tiles = static_cast<int>(ceil_div(s.queries, C::kRows));
  const int heads = s.batch * s.heads;
  const TileOrder order(tiles, heads / Epilogue::kHeads, s.causal,
                        std::int64_t{multiprocessors()} * C::kBlocks / Epilogue::kHeads);
  launch_tiles(
      a.dropout.active() ? attention_wgmma<C, true, Epilogue> : attention_wgmma<C, false, Epilogue>,
      std::int64_t{tiles} * heads, C::kThreads, scratch_offset<C>() + Epilogue::kShared,
      ForwardMaps<Epilogue>{a, order, epilogue, map_of(a.q, s, s.queries, s.heads, kGroupRows),
                            map_of(a.k, s, s.keys, s.key_heads, C::kKeys),
                            map_of(a.v, s, s.keys, s.key_heads, C::kKeys)},
      Epilogue::kHeads);
}

}  // namespace nibble::cuda
