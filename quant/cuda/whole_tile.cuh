// Parts of the kernel for scales that are whole along the contraction (int_gemm_whole.cu): tiles,
// shared memory, and the producers that fill it.
#pragma once

#include "quant/cuda/product.cuh"
#include "quant/cuda/ptx/wgmma_u8.cuh"
#include "quant/stream_k.h"
#include "tensor/cuda/hopper.cuh"

namespace nibble::cuda::whole {

inline constexpr std::uint32_t kRows = 128;     // of a tile: 64 for each of two consumer warpgroups
inline constexpr std::uint32_t kStep = 128;     // codes of a stage: one swizzled row of 128 bytes
inline constexpr std::uint32_t kCluster = 2;    // tiles one above the other share b's rows
inline constexpr std::uint32_t kThreads = 384;  // producers, two consumers
inline constexpr std::uint32_t kScaleThreads = 96;
inline constexpr std::uint32_t kSlice = 32;    // columns of a split tile that one part ends
inline constexpr std::uint32_t kBoxCols = 64;  // of results on their way out: 128 bytes of bf16

struct Problem {
  StreamK plan;  // of pairs of tiles over clusters
  Scales a, b;
  Bias bias;
  std::uint32_t m, n;
  std::uint32_t pairs, across;  // tiles: pairs down, across
  std::uint32_t strip;          // pairs down whose tiles follow each other, to meet in the L2
  bool boxes;                   // whole tiles leave through the copy engine as bf16
  bool keeps;                   // GELU: what it is applied to is a result too
  Output kept;                  // where that goes
  int4* partial;                // sums of parts of tiles by slot, in the order of their threads
  // [slots, 2, 2] at a tile's first: parts that are in `partial`, and who has seen them all
  // (part_flags.h).
  std::uint32_t* arrived;
  // With zero points: sums of codes of a's and b's rows where the other side has any; the largest
  // magnitudes of codes; codes of a row.
  const std::int32_t *sums_a, *sums_b;
  float largest_a, largest_b;
  std::uint32_t k;
};

struct Place {
  std::uint32_t row, col;

  __device__ Place(const Problem& p, std::uint32_t tile, std::uint32_t rank, std::uint32_t cols) {
    const std::uint32_t area = p.strip * p.across, first = tile / area * p.strip;
    const std::uint32_t height = min(p.strip, p.pairs - first), within = tile % area;
    row = ((first + within % height) * kCluster + rank) * kRows;
    col = within / height * cols;
  }
};

// What becomes of the sums beside scales and bias: nothing, tanh-GELU, zero points' share first.
enum class Ending { Plain, Gelu, Zeros };

template <std::uint32_t kCols_, std::uint32_t kStages_, Ending kEnding_ = Ending::Plain,
          class A = int8::S8, class B = int8::S8>
struct Shape {
  using CodesA = A;
  using CodesB = B;
  static constexpr std::uint32_t kCols = kCols_, kStages = kStages_, kSlices = kCols / kSlice;
  static constexpr Ending kEnding = kEnding_;
  static constexpr bool kZeros = kEnding == Ending::Zeros;
  static constexpr int kSums = kCols / 2;  // a thread's
  static constexpr std::uint32_t kStageA = kRows * kStep, kStage = kStageA + kCols * kStep;
  static constexpr std::uint32_t kBox = 64 * 128, kBoxes = kZeros ? 1 : 2;  // a warpgroup's
  // Offsets in shared memory, from a multiple of 1024.
  static constexpr std::uint32_t kOut = kStages * kStage;
  // What results need: bias; scales, zero points and sums of codes of b's rows, then of a's.
  static constexpr std::uint32_t kValues = kZeros ? 3 : 1;
  static constexpr std::uint32_t kBias = kOut + 2 * kBoxes * kBox;
  static constexpr std::uint32_t kAcross = kBias + kCols * 4;
  static constexpr std::uint32_t kDown = kAcross + kValues * kCols * 4;
  static constexpr std::uint32_t kFull = kDown + kValues * kRows * 4;  // barriers
  static constexpr std::uint32_t kEmpty = kFull + kStages * 8;
  static constexpr std::uint32_t kTileFull = kEmpty + kStages * 8;
  static constexpr std::uint32_t kTileEmpty = kTileFull + 8;
  static constexpr std::uint32_t kBytes = kTileEmpty + 8;
  static_assert(kBytes <= 227 * 1024);
};

using hopper::Ring;

// One thread: codes of a (own rows) and b (half of the rows, for both blocks of the cluster).
template <class S>
__device__ void produce_codes(const Problem& p, const CUtensorMap& map_a, const CUtensorMap& map_b,
                              std::uint32_t base, std::uint32_t rank, std::uint32_t worker) {
  constexpr std::uint32_t kHalf = S::kCols / kCluster;
  Ring<S::kStages> ring;
  StreamKWalk walk(p.plan, worker);
  for (TilePart part; walk.next(part);) {
    const Place place(p, part.tile, rank, S::kCols);
    for (std::uint32_t step = 0; step < part.steps; ++step, ring.advance()) {
      const std::uint32_t to = base + ring.stage * S::kStage,
                          full = base + S::kFull + ring.stage * 8,
                          k = (part.first_step + step) * kStep;
      hopper::wait(base + S::kEmpty + ring.stage * 8, ring.parity ^ 1);
      hopper::arrive_expecting(full, S::kStage);
      hopper::load_tile(to, map_a, full, k, place.row);
      hopper::load_tile_to((1 << kCluster) - 1, to + S::kStageA + rank * kHalf * kStep, map_b, full,
                           k, place.col + rank * kHalf);
    }
  }
}

// kScaleThreads threads: what the results of each part need of `count` rows of an operand from
// `first`; rows beyond `end` repeat the last.
template <class S>
__device__ void produce_rows(const Scales& x, const std::int32_t* sums, std::uint32_t to,
                             std::uint32_t count, std::uint32_t first, std::uint32_t end,
                             std::uint32_t thread) {
  for (std::uint32_t i = thread; i < count; i += kScaleThreads) {
    const std::uint32_t row = min(first + i, end - 1);
    const std::int64_t tile = x.index(row, 0);
    copy4_async(to + i * 4, x.scales + tile);
    if constexpr (S::kZeros) {
      if (x.zeros) copy4_async(to + (count + i) * 4, x.zeros + tile);
      if (sums) copy4_async(to + (2 * count + i) * 4, sums + row);
    }
  }
}
template <class S>
__device__ void produce_scales(const Problem& p, std::uint32_t base, std::uint32_t rank,
                               std::uint32_t thread, std::uint32_t worker) {
  std::uint32_t parity = 0;
  const auto end = [&](const TilePart& part, bool) {
    const Place place(p, part.tile, rank, S::kCols);
    hopper::wait(base + S::kTileEmpty, parity ^ 1);
    parity ^= 1;
    if (p.bias)
      for (std::uint32_t i = thread; i < S::kCols; i += kScaleThreads)
        store_shared(base + S::kBias + i * 4, p.bias.at(min(place.col + i, p.n - 1)));
    produce_rows<S>(p.b, p.sums_b, base + S::kAcross, S::kCols, place.col, p.n, thread);
    produce_rows<S>(p.a, p.sums_a, base + S::kDown, kRows, place.row, p.m, thread);
    commit_copies();
    wait_for_copies<0>();
    hopper::arrive(base + S::kTileFull);
  };
  StreamKWalk(p.plan, worker).run([](const TilePart&) {}, [](const TilePart&) {}, end);
}

}  // namespace nibble::cuda::whole
