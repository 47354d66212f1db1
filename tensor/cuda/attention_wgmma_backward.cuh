// What the two backward kernels on warpgroup products share (attention_wgmma_keys.cu,
// attention_wgmma_queries.cu). Each block owns two operands of its rows; two others stream past.
#pragma once

#include "tensor/cuda/attention_dropout.cuh"
#include "tensor/cuda/attention_wgmma.cuh"

namespace nibble::cuda {

inline constexpr float kLog2E = 1.44269504f;

// Own operands, then stages of two tiles of kStep rows that stream past, then of statistics.
template <int kWidth_, int kGroups_, int kBlocks_, int kStages_, bool kOverlap_>
struct BackwardTiling : Roles<kGroups_, kBlocks_> {
  static constexpr int kWidth = kWidth_, kStep = 64, kStages = kStages_;
  static constexpr bool kOverlap = kOverlap_;  // a step's products beside its arithmetic
  static constexpr int kGroupBytes = kGroupRows * kWidth * 2;
  static constexpr int kOwnBytes = kGroups_ * kGroupBytes, kStepBytes = kStep * kWidth * 2;
  static constexpr int kStatsBytes = kStep * static_cast<int>(sizeof(float2));
  static constexpr int kStats = 2 * kOwnBytes + 2 * kStages * kStepBytes;
  static constexpr int kBarriers = kStats + kStages * kStatsBytes;
  static constexpr int kShared = kBarriers + 8 + Stages<kStages, BackwardTiling>::kBytes;
};

struct BackwardMaps {
  BackwardArguments<bfloat16> a;
  TileOrder order;
  CUtensorMap q, k, v, dout;
};
// `query_box` and `key_box`: rows of a tile of queries and of keys.
inline BackwardMaps backward_maps(const BackwardArguments<bfloat16>& a, const TileOrder& order,
                                  int query_box, int key_box) {
  const AttentionShape& s = a.shape;
  return {a,
          order,
          map_of(a.q, s, s.queries, s.heads, query_box),
          map_of(a.k, s, s.keys, s.key_heads, key_box),
          map_of(a.v, s, s.keys, s.key_heads, key_box),
          map_of(a.dout, s, s.queries, s.heads, query_box)};
}

}  // namespace nibble::cuda
