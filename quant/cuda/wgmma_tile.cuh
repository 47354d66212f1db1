// Parts of the wgmma kernel (int_gemm_wgmma.cu): the work items, shared memory, the producers that
// fill it, and a warpgroup's sums.
#pragma once

#include "quant/cuda/product.cuh"
#include "quant/cuda/ptx/wgmma_s8.cuh"
#include "tensor/cuda/hopper.cuh"

namespace nibble::cuda::wg {

inline constexpr std::uint32_t kRows = 128;     // of a tile: 64 for each of two consumer warpgroups
inline constexpr std::uint32_t kStep = 128;     // codes of a stage: one swizzled row of 128 bytes
inline constexpr std::uint32_t kCluster = 2;    // tiles one above the other share b's rows
inline constexpr std::uint32_t kThreads = 384;  // producers, two consumers
inline constexpr std::uint32_t kScaleThreads = 96;
inline constexpr std::uint32_t kBoxCols = 64;  // of results on their way out: 128 bytes of bf16

struct Problem {
  Scales a, b;
  const float* bias;  // may be null
  std::uint32_t m, n, k;
  std::uint32_t block_steps;    // steps of a contraction block
  std::uint32_t segment_steps;  // of a segment: a whole number of blocks
  std::uint32_t segments;
  std::uint32_t pairs, across;  // tiles: pairs down, across
  bool boxes;                   // results leave through the copy engine as bf16
  void* partial;                // sums of earlier segments, a tile's in the order of its threads
  std::uint32_t* turn;          // [tiles, 2]: segments that are in `partial`

  __device__ std::uint32_t items() const { return segments * pairs * across; }
};

// An item: one segment of a pair of tiles. Segments come one after the other, so that whoever waits
// for an earlier segment waits for an item that began before its own. Within one, groups of 8 pairs
// share operands in the L2.
struct Item {
  std::uint32_t row, col, first_step, steps, segment, tile;

  __device__ Item(const Problem& p, std::uint32_t index, std::uint32_t rank, std::uint32_t cols) {
    constexpr std::uint32_t kGroup = 8;
    const std::uint32_t tiles = p.pairs * p.across;
    segment = index / tiles;
    const std::uint32_t at = index % tiles;
    const std::uint32_t first = at / (kGroup * p.across) * kGroup;
    const std::uint32_t height = min(kGroup, p.pairs - first), within = at % (kGroup * p.across);
    const std::uint32_t down = (first + within % height) * kCluster + rank;
    row = down * kRows;
    col = within / height * cols;
    tile = down * p.across + within / height;
    first_step = segment * p.segment_steps;
    steps = min(p.segment_steps, (p.k + kStep - 1) / kStep - first_step);
  }
};

// When scales apply: after the whole contraction, after each step, or after blocks of several
// steps.
enum class Blocks { Whole, Steps, Long };

// kCols: results across. kSharedB: 64 columns of b in a row have one scale.
template <std::uint32_t kCols_, Blocks kBlocks, bool kSharedB_, std::uint32_t kStages_>
struct Shape {
  static constexpr std::uint32_t kCols = kCols_, kStages = kStages_;
  static constexpr bool kLocal = kBlocks != Blocks::Whole, kSharedB = kSharedB_;
  // The next step's products are under way while this one's are rescaled.
  static constexpr bool kAhead = kBlocks == Blocks::Steps;
  static constexpr int kSums = kCols / 2;  // a thread's
  static constexpr std::uint32_t kStageA = kRows * kStep, kStage = kStageA + kCols * kStep;
  static constexpr std::uint32_t kStageScales = kLocal ? (kRows + kCols) * 4 : 0;
  static constexpr std::uint32_t kBox = 64 * 128, kBoxes = 2;  // a warpgroup's
  // Offsets in shared memory, from a multiple of 1024.
  static constexpr std::uint32_t kOut = kStages * kStage;
  static constexpr std::uint32_t kScales = kOut + 2 * kBoxes * kBox;
  // What the results of a tile need: bias; without local scales also those of b's and a's rows.
  static constexpr std::uint32_t kBias = kScales + kStages * kStageScales;
  static constexpr std::uint32_t kAcross = kBias + kCols * 4;
  static constexpr std::uint32_t kDown = kAcross + (kLocal ? 0 : kCols * 4);
  static constexpr std::uint32_t kFull = kDown + (kLocal ? 0 : kRows * 4);  // barriers
  static constexpr std::uint32_t kEmpty = kFull + kStages * 8;
  static constexpr std::uint32_t kTileFull = kEmpty + kStages * 8;
  static constexpr std::uint32_t kTileEmpty = kTileFull + 8;
  static constexpr std::uint32_t kBytes = kTileEmpty + 8;
  static_assert(kBytes <= 227 * 1024);
};

// Where a walk over stages stands.
template <std::uint32_t kStages>
struct Ring {
  std::uint32_t stage = 0, parity = 0;

  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// One thread: codes of a (own rows) and b (half of the rows, for both blocks of the cluster).
template <class S>
__device__ void produce_codes(const Problem& p, const CUtensorMap& map_a, const CUtensorMap& map_b,
                              std::uint32_t base, std::uint32_t rank, std::uint32_t first,
                              std::uint32_t stride) {
  constexpr std::uint32_t kHalf = S::kCols / kCluster;
  Ring<S::kStages> ring;
  for (std::uint32_t index = first; index < p.items(); index += stride) {
    const Item item(p, index, rank, S::kCols);
    for (std::uint32_t step = 0; step < item.steps; ++step, ring.advance()) {
      const std::uint32_t to = base + ring.stage * S::kStage,
                          full = base + S::kFull + ring.stage * 8,
                          k = (item.first_step + step) * kStep;
      hopper::wait(base + S::kEmpty + ring.stage * 8, ring.parity ^ 1);
      hopper::arrive_expecting(full, S::kStage);
      hopper::load_tile(to, map_a, full, k, item.row);
      hopper::load_tile_to((1 << kCluster) - 1, to + S::kStageA + rank * kHalf * kStep, map_b, full,
                           k, item.col + rank * kHalf);
    }
  }
}

// kScaleThreads threads: what the results of an item need.
template <class S>
__device__ void produce_tile(const Problem& p, std::uint32_t base, const Item& item,
                             std::uint32_t parity, std::uint32_t thread) {
  hopper::wait(base + S::kTileEmpty, parity ^ 1);
  for (std::uint32_t i = thread; i < S::kCols; i += kScaleThreads) {
    const std::uint32_t col = min(item.col + i, p.n - 1);
    if (p.bias) copy4_async(base + S::kBias + i * 4, p.bias + col);
    if constexpr (!S::kLocal)
      copy4_async(base + S::kAcross + i * 4, p.b.scales + p.b.index(col, 0));
  }
  if constexpr (!S::kLocal)
    for (std::uint32_t i = thread; i < kRows; i += kScaleThreads)
      copy4_async(base + S::kDown + i * 4, p.a.scales + p.a.index(min(item.row + i, p.m - 1), 0));
  hopper::arrive_after_copies(base + S::kTileFull);
}

// kScaleThreads threads: the scales of a's and b's rows that apply to each step.
template <class S>
__device__ void produce_scales(const Problem& p, std::uint32_t base, std::uint32_t rank,
                               std::uint32_t thread, std::uint32_t first, std::uint32_t stride) {
  std::uint32_t parity = 0;
  if constexpr (!S::kLocal) {
    for (std::uint32_t index = first; index < p.items(); index += stride, parity ^= 1)
      produce_tile<S>(p, base, Item(p, index, rank, S::kCols), parity, thread);
    return;
  }
  constexpr std::uint32_t kOperands = kRows + S::kCols;
  constexpr std::uint32_t kEach = (kOperands + kScaleThreads - 1) / kScaleThreads;
  Ring<S::kStages> ring;
  for (std::uint32_t index = first; index < p.items(); index += stride) {
    const Item item(p, index, rank, S::kCols);
    const float* from[kEach];
    std::uint32_t columns[kEach];
#pragma unroll
    for (std::uint32_t i = 0; i < kEach; ++i) {
      const std::uint32_t at = thread + i * kScaleThreads;
      const Scales s = at < kRows ? p.a : p.b;
      const std::uint32_t row =
          at < kRows ? min(item.row + at, p.m - 1) : min(item.col + at - kRows, p.n - 1);
      from[i] = s.scales + s.index(row, 0);
      columns[i] = s.columns == 1 ? 0 : 1;
    }
    for (std::uint32_t step = 0; step < item.steps; ++step, ring.advance()) {
      const std::uint32_t block = (item.first_step + step) / p.block_steps;
      const std::uint32_t to = base + S::kScales + ring.stage * S::kStageScales + thread * 4;
      hopper::wait(base + S::kEmpty + ring.stage * 8, ring.parity ^ 1);
#pragma unroll
      for (std::uint32_t i = 0; i < kEach; ++i)
        if (thread + i * kScaleThreads < kOperands)
          copy4_async(to + i * kScaleThreads * 4, from[i] + block * columns[i]);
      hopper::arrive_after_copies(base + S::kFull + ring.stage * 8);
    }
    // Last, because it waits for the results of the item before.
    produce_tile<S>(p, base, item, parity, thread);
    parity ^= 1;
  }
}

// A thread's share of a tile: int32 sums of the current contraction block (and of the next one)
// and, with local scales, f32 results.
template <class S>
struct Accumulators {
  static constexpr int kSums = S::kSums;
  std::int32_t sums[S::kAhead ? 2 : 1][kSums];
  float results[S::kLocal ? kSums : 1];

  __device__ void clear() {
#pragma unroll
    for (float& f : results) f = 0;
  }
  // Enqueues the products of a stage: rows of a and b in shared memory.
  __device__ void multiply(std::int32_t (&to)[kSums], std::uint32_t a, std::uint32_t b,
                           bool fresh) {
    const std::uint64_t rows_a = hopper::swizzled_rows(a), rows_b = hopper::swizzled_rows(b);
    hopper::keep(to);
    hopper::wgmma_fence();
#pragma unroll
    for (int depth = 0; depth < 4; ++depth)
      int8::wgmma(to, rows_a + 2 * depth, rows_b + 2 * depth, depth > 0 || !fresh);
    hopper::wgmma_commit();
  }

  // The scales of a step that are loaded ahead of its sums. `scales` (shared memory): the tile's
  // rows of a, then of b; `row`: the thread's first.
  static constexpr int kParts = S::kSharedB ? S::kCols / 64 : 0;
  struct StepScales {
    float down[2], across[kParts > 0 ? kParts : 1];
  };
  __device__ static StepScales load(const float* scales, std::uint32_t row) {
    StepScales x;
    x.down[0] = scales[row];
    x.down[1] = scales[row + 8];
#pragma unroll
    for (int part = 0; part < kParts; ++part) x.across[part] = scales[kRows + part * 64];
    return x;
  }
  // f = fma(sum, sa · sb, f). `release` is called once no scale is read any more.
  template <class Release>
  __device__ void rescale(const std::int32_t (&from)[kSums], const StepScales& step,
                          const float* scales, Release release) {
    const float(&down)[2] = step.down;
    if constexpr (S::kSharedB) {
      release();
      float scale[kParts][2];
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        scale[part][0] = __fmul_rn(down[0], step.across[part]);
        scale[part][1] = __fmul_rn(down[1], step.across[part]);
      }
#pragma unroll
      for (int i = 0; i < kSums; ++i)
        results[i] = __fmaf_rn(__int2float_rn(from[i]), scale[i / 32][i % 4 / 2], results[i]);
    } else {
      const float* const across = scales + kRows + threadIdx.x % 4 * 2;
#pragma unroll
      for (int j = 0; j < kSums / 4; ++j) {
        const auto sb = load_vector<float, 2>(across + j * 8);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float& f = results[j * 4 + e];
          f = __fmaf_rn(__int2float_rn(from[j * 4 + e]), __fmul_rn(down[e / 2], sb.v[e % 2]), f);
        }
      }
      release();
    }
  }
};

}  // namespace nibble::cuda::wg
