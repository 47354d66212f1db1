// Parts of the resident kernel (int_gemm_resident.cu): the work items, shared memory and the
// producer that fills it.
#pragma once

#include "quant/cuda/product.cuh"
#include "quant/cuda/ptx/wgmma_s8.cuh"
#include "tensor/cuda/hopper.cuh"

namespace nibble::cuda::resident {

inline constexpr std::uint32_t kRows = 64;   // of a tile, which one warpgroup multiplies
inline constexpr std::uint32_t kCols = 192;  // of a panel
inline constexpr std::uint32_t kStep = 128;  // codes of a stage: one swizzled row of 128 bytes
inline constexpr std::uint32_t kGroups = 3;  // consumer warpgroups, before the producer's
inline constexpr std::uint32_t kConsumers = kGroups * 128, kThreads = kConsumers + 128;
inline constexpr int kSums = kCols / 2;  // a thread's
inline constexpr std::uint32_t kStage = kRows * kStep, kPanelStep = kCols * kStep;
inline constexpr std::uint32_t kMaxSteps = kMaxResidentDepth / kStep, kMaxStages = 8;
// Results on their way out: 16 rows of 64 columns in bf16, the room of a warp.
inline constexpr std::uint32_t kBoxRows = 16, kBoxCols = 64, kBox = kBoxRows * kBoxCols * 2;
// Offsets in shared memory, from a multiple of 1024: scales and bias of the panel's columns,
// barriers, results, the panel; behind it the stages.
inline constexpr std::uint32_t kFull = kCols * 8, kEmpty = kFull + kMaxStages * 8;
inline constexpr std::uint32_t kPanelFull = kEmpty + kMaxStages * 8;
inline constexpr std::uint32_t kPanelEmpty = kPanelFull + kMaxSteps * 8;
inline constexpr std::uint32_t kOut = 2048, kPanel = kOut + kConsumers / 32 * kBox;
inline constexpr std::uint32_t kMaxBytes = 227 * 1024;
static_assert(kPanelEmpty + 8 <= kOut && kPanel % 1024 == 0);
// Named barriers: all consumers; the turn of a warpgroup (+ group), which it and the one before
// meet at.
inline constexpr std::uint32_t kAll = 1, kTurn = 2, kTurnThreads = 256;

// n / d = (umulhi(n, factor) + n) >> shift for n below 2^31 (Granlund and Montgomery, 1994).
struct Divisor {
  std::uint32_t factor, shift;

  __device__ std::uint32_t of(std::uint32_t n) const { return (__umulhi(n, factor) + n) >> shift; }
};
inline Divisor divisor(std::uint32_t d) {
  std::uint32_t shift = 0;
  while ((std::uint64_t{1} << shift) < d) ++shift;
  return {static_cast<std::uint32_t>((((std::uint64_t{1} << shift) - d) << 32) / d + 1), shift};
}

struct Problem {
  const float* down;  // scales of a's rows, one for each `down_rows` of them
  Divisor down_rows;
  Scales across;  // of b's rows
  Bias bias;
  std::uint32_t m, n, steps;    // of kStep codes
  std::uint32_t stages;         // of the ring
  std::uint32_t tiles;          // down
  std::uint32_t panels, parts;  // of the tiles
  bool boxes;                   // results leave through the copy engine as bf16

  __device__ std::uint32_t items() const { return panels * parts; }
};

// An item: a panel and the tiles that pass by it. Neighbours take the same rows at the same time,
// so that a comes from memory once.
struct Item {
  std::uint32_t col, first, end;

  __device__ Item(const Problem& p, std::uint32_t index) {
    const std::uint32_t part = index / p.panels;
    col = index % p.panels * kCols;
    const std::uint32_t height = p.tiles / p.parts, longer = p.tiles % p.parts;
    first = part * height + min(part, longer);
    end = first + height + (part < longer ? 1 : 0);
  }
};

// Where a walk over the stages stands.
struct Ring {
  std::uint32_t stage = 0, parity = 0;

  __device__ void advance(const Problem& p, std::uint32_t steps = 1) {
    stage += steps;
    while (stage >= p.stages) {
      stage -= p.stages;
      parity ^= 1;
    }
  }
};

// The other side of hopper::sync_threads: does not wait.
__device__ inline void arrive_threads(std::uint32_t name, std::uint32_t threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

// One thread: panels of b as items begin, and rows of a.
__device__ inline void produce(const Problem& p, const CUtensorMap& map_a, const CUtensorMap& map_b,
                               std::uint32_t base) {
  const std::uint32_t stages = base + kPanel + p.steps * kPanelStep;
  Ring ring;
  std::uint32_t panel_parity = 1;
  for (std::uint32_t index = blockIdx.x; index < p.items(); index += gridDim.x, panel_parity ^= 1) {
    const Item item(p, index);
    hopper::wait(base + kPanelEmpty, panel_parity);
    for (std::uint32_t tile = item.first; tile < item.end; ++tile)
      for (std::uint32_t step = 0; step < p.steps; ++step, ring.advance(p)) {
        if (tile == item.first) {
          const std::uint32_t full = base + kPanelFull + step * 8;
          hopper::arrive_expecting(full, kPanelStep);
          hopper::load_tile(base + kPanel + step * kPanelStep, map_b, full, step * kStep, item.col);
        }
        const std::uint32_t full = base + kFull + ring.stage * 8;
        hopper::wait(base + kEmpty + ring.stage * 8, ring.parity ^ 1);
        hopper::arrive_expecting(full, kStage);
        hopper::load_tile(stages + ring.stage * kStage, map_a, full, step * kStep, tile * kRows);
      }
  }
}

}  // namespace nibble::cuda::resident
