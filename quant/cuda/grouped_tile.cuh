// Parts of the kernel of products with local scales (int_gemm_grouped.cu): the work items, shared
// memory and the producers that fill it.
#pragma once

#include "quant/cuda/product.cuh"
#include "quant/cuda/ptx/wgmma_s8.cuh"
#include "quant/segments.h"
#include "tensor/cuda/hopper.cuh"

namespace nibble::cuda::grouped {

inline constexpr std::uint32_t kGroups = 3;           // consumer warpgroups, 64 rows each
inline constexpr std::uint32_t kRows = 64 * kGroups;  // of a tile
inline constexpr std::uint32_t kCols = 128;
inline constexpr std::uint32_t kStep = 128;  // codes of a stage: one swizzled row of 128 bytes
inline constexpr std::uint32_t kStages = 4, kScaleStages = 2;
inline constexpr std::uint32_t kThreads = 128 * (1 + kGroups);  // producers, consumers
inline constexpr std::uint32_t kScaleThreads = 96;
inline constexpr std::uint32_t kWarps = 4 * kGroups;  // that consume
inline constexpr std::uint32_t kQuad = 4;  // contraction blocks whose scales come at once

__device__ inline float load_shared(std::uint32_t from) {
  float x;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(from));
  return x;
}
__device__ inline void load_shared(float (&x)[2], std::uint32_t from) {
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x[0]), "=f"(x[1]) : "r"(from));
}
__device__ inline void load_shared(float (&x)[4], std::uint32_t from) {
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
               : "r"(from));
}

struct Problem {
  Scales a, b;
  Bias bias;
  std::uint32_t m, n;
  std::uint32_t block_steps;  // steps of a contraction block
  Segments segments;          // of a cluster's tiles; a unit is a block, of 128 codes or more
  bool quads_a, quads_b;      // scales of kQuad blocks are aligned
  bool boxes;                 // results leave through the copy engine as bf16
  std::uint32_t clusters;     // at work
  float4* partial;            // helpers' sums, a slot for each part, in the order of threads
  std::uint32_t* there;       // [slots, blocks of a cluster, kGroups]: is it? (part_flags.h)
};

// kDown × kAcross tiles of a cluster share rows of a and b. kBlockSteps: steps of a contraction
// block, 0 for any number. kSharedB: 64 columns of b in a row have one scale.
template <std::uint32_t kDown_, std::uint32_t kAcross_, std::uint32_t kBlockSteps_, bool kSharedB_>
struct Shape {
  static constexpr std::uint32_t kDown = kDown_, kAcross = kAcross_, kCluster = kDown * kAcross;
  static constexpr bool kSharedB = kSharedB_;
  static constexpr std::uint32_t kBlockSteps = kBlockSteps_;
  static constexpr std::uint32_t kColumnScales = kSharedB ? kCols / 64 : kCols;
  static constexpr std::uint32_t kStageA = kRows * kStep, kStage = kStageA + kCols * kStep;
  static constexpr std::uint32_t kBox = 16 * 128, kBoxes = kCols / 64;  // a warp's results
  // Offsets in shared memory, from a multiple of 1024.
  static constexpr std::uint32_t kOut = kStages * kStage;
  static constexpr std::uint32_t kBias = kOut + kWarps * kBoxes * kBox;
  static constexpr std::uint32_t kScales = kBias + kGroups * kCols * 4;
  static constexpr std::uint32_t kScaleBlock = (kRows + kColumnScales) * 4;
  static constexpr std::uint32_t kScaleStage = kQuad * kScaleBlock;
  static constexpr std::uint32_t kFull = kScales + kScaleStages * kScaleStage;
  static constexpr std::uint32_t kEmpty = kFull + kStages * 8;
  static constexpr std::uint32_t kScaleFull = kEmpty + kStages * 8;
  static constexpr std::uint32_t kScaleEmpty = kScaleFull + kScaleStages * 8;
  static constexpr std::uint32_t kBytes = kScaleEmpty + kScaleStages * 8;
  static_assert(kBytes <= 227 * 1024);
  // Blocks of a cluster whose copies reach a block: its row and its column.
  static constexpr std::uint32_t kSharers = kDown + kAcross - 1;
};

// An item: one segment of a cluster's tiles, as this block of the cluster sees it.
template <class S>
struct Item {
  static_assert(kRows * S::kDown == Segments::kRows && kCols * S::kAcross == Segments::kCols);
  std::uint32_t row, col, first_block, blocks, slot, parts;

  __device__ Item(const Problem& p, const TileSegment& x, std::uint32_t rank)
      : row(p.segments.row_of(x.tile) + rank / S::kAcross * kRows),
        col(p.segments.col_of(x.tile) + rank % S::kAcross * kCols),
        first_block(x.first),
        blocks(x.units),
        slot(x.slot),
        parts(x.parts) {}
};

using hopper::Ring;

// One thread: this block's share of the codes of a and b, for its row and its column of the
// cluster. The last contraction block may end beyond k: the copy engine brings zeros.
template <class S>
__device__ void produce_codes(const Problem& p, const CUtensorMap& map_a, const CUtensorMap& map_b,
                              std::uint32_t base, std::uint32_t rank, std::uint32_t cluster) {
  constexpr std::uint32_t kShareA = kRows / S::kAcross, kShareB = kCols / S::kDown;
  const std::uint32_t down = rank / S::kAcross, across = rank % S::kAcross;
  std::uint32_t column = 0;  // the blocks below and above
#pragma unroll
  for (std::uint32_t d = 0; d < S::kDown; ++d) column |= 1u << (d * S::kAcross + across);
  const auto to_row = static_cast<std::uint16_t>(((1u << S::kAcross) - 1) << (down * S::kAcross));
  const auto to_column = static_cast<std::uint16_t>(column);
  Ring<kStages> ring;
  SegmentWalk walk(p.segments, cluster, p.clusters);
  for (TileSegment segment; walk.next(segment);) {
    const Item<S> item(p, segment, rank);
    std::uint32_t k = item.first_block * p.block_steps * kStep;
    for (std::uint32_t step = item.blocks * p.block_steps; step > 0; --step, ring.advance()) {
      const std::uint32_t a = base + ring.stage * S::kStage + across * kShareA * kStep,
                          b = base + ring.stage * S::kStage + S::kStageA + down * kShareB * kStep,
                          full = base + S::kFull + ring.stage * 8;
      hopper::wait(base + S::kEmpty + ring.stage * 8, ring.parity ^ 1);
      hopper::arrive_expecting(full, S::kStage);
      hopper::load_tile_to(to_row, a, map_a, full, k, item.row + across * kShareA);
      hopper::load_tile_to(to_column, b, map_b, full, k, item.col + down * kShareB);
      k += kStep;
    }
  }
}

// kScaleThreads threads: the scales of a's and b's rows, those of kQuad blocks at once since they
// share a sector of memory; in shared memory a block's lie together.
template <class S>
__device__ void produce_scales(const Problem& p, std::uint32_t base, std::uint32_t rank,
                               std::uint32_t thread, std::uint32_t cluster) {
  constexpr std::uint32_t kOperands = kRows + S::kColumnScales;
  constexpr std::uint32_t kColsApart = kCols / S::kColumnScales;
  Ring<kScaleStages> ring;
  SegmentWalk walk(p.segments, cluster, p.clusters);
  for (TileSegment segment; walk.next(segment);) {
    const Item<S> item(p, segment, rank);
    const std::uint32_t end = item.first_block + item.blocks;
    for (std::uint32_t block = item.first_block / kQuad * kQuad; block < end;
         block += kQuad, ring.advance()) {
      hopper::wait(base + S::kScaleEmpty + ring.stage * 8, ring.parity ^ 1);
#pragma unroll 1
      for (std::uint32_t at = thread; at < kOperands; at += kScaleThreads) {
        const Scales& s = at < kRows ? p.a : p.b;
        const std::uint32_t row = at < kRows ? min(item.row + at, p.m - 1)
                                             : min(item.col + (at - kRows) * kColsApart, p.n - 1);
        const float* const from = s.scales + s.index(row, 0);
        float x[kQuad];
        if (at < kRows ? p.quads_a : p.quads_b) {
          const auto v = load_vector<float, kQuad>(from + block);
#pragma unroll
          for (std::uint32_t i = 0; i < kQuad; ++i) x[i] = v.v[i];
        } else {
#pragma unroll
          for (std::uint32_t i = 0; i < kQuad; ++i)
            x[i] = __ldg(from + min(block + i, s.columns - 1));
        }
#pragma unroll
        for (std::uint32_t i = 0; i < kQuad; ++i)
          store_shared(
              base + S::kScales + ring.stage * S::kScaleStage + i * S::kScaleBlock + at * 4, x[i]);
      }
      hopper::arrive(base + S::kScaleFull + ring.stage * 8);
    }
  }
}

}  // namespace nibble::cuda::grouped
