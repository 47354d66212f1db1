// int8 products on tensor cores that scale in registers: the route of scales that change along the
// contraction (groups and blocks), and of products too short to pay for an int32 result in memory.
// Moves a and b once for every column (row) of tiles, mostly from the L2, and writes c once;
// 2·m·n·k operations with mma.sync.m16n8k32, whose ceiling on an H200 is about 0.6 of the 1979
// TOP/s that wgmma has.
//
// Thread blocks stay and take tiles of c in turn. A tile walks the contraction in steps of 128
// codes, which cp.async brings into a ring of stages, already for the next tile while this one's
// results leave. At the end of each contraction block one fma a result, in ascending order,
// whatever the tile: the bits do not depend on its shape.
#include <algorithm>

#include "quant/cuda/int8_tile.cuh"

namespace nibble::cuda {
namespace {

using Large = Tile<128, 128, 64, 32, 4, 1>;
using Small = Tile<64, 64, 32, 32, 3, 3>;

template <class Tile, int kSchedule, bool kSharedB>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    tiles_kernel(const __grid_constant__ TileProblem p, const __grid_constant__ BiasedOutput out) {
  extern __shared__ __align__(128) std::uint8_t shared[];
  using Layout = SharedLayout<Tile, kSchedule>;
  constexpr int kSlots = scale_slots(kSchedule), kDepths = kStep / kDepth;
  auto* const staged = reinterpret_cast<float*>(shared + Layout::kResults);
  const std::uint32_t base = shared_address(shared);
  Loader<Tile, kSchedule> loader(p, base);
#pragma unroll
  for (int s = 0; s < Tile::kStages - 1; ++s) loader.next();

  WarpTile<Tile, kSchedule, kSharedB> warp;
  // Blocks of 32 and 64 codes are always short.
  const bool offset = kSchedule == kEvery32 || kSchedule == kEvery64 || p.short_blocks;
  const std::int32_t start = offset ? kOffsetBits : 0;
  const std::uint32_t steps = p.steps();
  std::uint32_t ring = 0;
  for (std::uint32_t tile = blockIdx.x; tile < p.tiles(); tile += gridDim.x) {
    warp.clear_results();
    warp.clear(start);
    std::uint32_t steps_left = p.block_steps;  // of the current block
    std::uint32_t row0, col0;
    locate<Tile>(p, tile, row0, col0);
    // A warp's results are of one tile of the segments; these are whole steps.
    static_assert(Segments::kRows % Tile::kWarpRows == 0 && Segments::kCols % Tile::kWarpCols == 0);
    const std::uint32_t place = p.segments.tile_of(row0 + warp.row, col0 + warp.col);
    bool first = true;
    std::uint32_t segment_end = p.segment_end(place, 0);
    for (std::uint32_t step = 0; step < steps; ++step) {
      wait_for_copies<Tile::kStages - 2>();
      __syncthreads();  // the stage is there for all, and all have read the one to refill
      loader.next();
      const std::uint32_t stage = base + ring * Layout::kStage;
      const auto* const scales =
          reinterpret_cast<const float*>(shared + Layout::kScales + ring * Layout::kStageScales);
      ring = ring + 1 == Tile::kStages ? 0 : ring + 1;
      warp.load(stage, 0);
#pragma unroll
      for (int d = 0; d < kDepths; ++d) {
        if (d + 1 < kDepths) warp.load(stage, d + 1);
        warp.multiply(d);
        if constexpr (kSchedule == kEvery32 || kSchedule == kEvery64) {
          const int index = d / kSchedule;
          if ((d + 1) % kSchedule != 0 ||
              step * kSlots + static_cast<std::uint32_t>(index) >= p.blocks)  // past k
            continue;
          warp.apply(scales + index * Tile::kOperands, true);
          warp.clear(start);
        }
      }
      if constexpr (kSchedule == kEverySteps) {
        if (--steps_left == 0 || step + 1 == steps) {
          warp.apply(scales, offset);
          warp.clear(start);
          steps_left = p.block_steps;
        }
      } else if constexpr (kSchedule == kWhole) {
        if (step + 1 == steps) warp.apply(scales, offset);
      }
      // The next tile's first barrier keeps its results from overtaking the reads below.
      if (step + 1 == segment_end) {
        warp.write(staged, first);
        warp.clear_results();
        first = false;
        if (step + 1 < steps) segment_end = p.segment_end(place, step + 1);
      }
    }
    __syncthreads();
    constexpr std::uint32_t kFours = Tile::kCols / 4;
#pragma unroll 4
    for (std::uint32_t i = threadIdx.x; i < Tile::kRows * kFours; i += Tile::kThreads) {
      const std::uint32_t r = i / kFours, c = i % kFours * 4;
      const auto f = load_vector<float, 4>(staged + r * Tile::kPitch + c);
      out.store4(f.v, row0 + r, col0 + c);
    }
  }
  wait_for_copies<0>();
}

template <class Tile, int kSchedule, bool kSharedB = false>
void run(const TileProblem& p, const IntProduct& product) {
  const auto kernel = tiles_kernel<Tile, kSchedule, kSharedB>;
  constexpr std::size_t kShared = SharedLayout<Tile, kSchedule>::kBytes;
  NIBBLE_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(kShared)));
  const std::int64_t most = std::int64_t{multiprocessors()} * Tile::kBlocks;
  const std::int64_t tiles = std::int64_t{p.down} * p.across;
  launch(kernel, dim3(static_cast<unsigned>(std::min(most, tiles))), dim3(Tile::kThreads), kShared,
         p, biased_output_of(product));
}

template <class Tile>
void run_tiles(TileProblem p, const IntProduct& product) {
  p.down = static_cast<std::uint32_t>(ceil_div(p.m, Tile::kRows));
  p.across = static_cast<std::uint32_t>(ceil_div(p.n, Tile::kCols));
  NIBBLE_CHECK(std::int64_t{p.down} * p.across < INT32_MAX / 16, "int_gemm",
               "got {}, which is too large for one launch", describe(product.c));
  // One scale for all columns of each tile saves a product a result.
  const std::int64_t b_rows = product.b.tile_rows;
  const bool shared_b = b_rows % Tile::kCols == 0 || b_rows >= product.n();
  if (p.blocks == 1)
    run<Tile, kWhole>(p, product);
  else if (product.block == 32)
    run<Tile, kEvery32>(p, product);
  else if (product.block == 64)
    run<Tile, kEvery64>(p, product);
  else if (shared_b)
    run<Tile, kEverySteps, true>(p, product);
  else
    run<Tile, kEverySteps>(p, product);
}

// Large tiles move half the bytes; small ones fill the device when c is small. Rounds of the device
// in units of a small tile's work, which is assumed to take 1.5 times as long a result.
bool use_large(std::int64_t m, std::int64_t n) {
  const std::int64_t large = ceil_div(m, Large::kRows) * ceil_div(n, Large::kCols);
  const std::int64_t small = ceil_div(m, Small::kRows) * ceil_div(n, Small::kCols);
  const std::int64_t width = multiprocessors();
  return ceil_div(large, width) * 8 <= ceil_div(small, width) * 3;
}

}  // namespace

void int_gemm_tiles(const IntProduct& product) {
  const Tensor a = padded_codes(product.a, product.k), b = padded_codes(product.b, product.k);
  TileProblem p{};
  p.a = a.data<std::int8_t>();
  p.b = b.data<std::int8_t>();
  p.scales_a = scales_of(product.a);
  p.scales_b = scales_of(product.b);
  p.m = static_cast<std::uint32_t>(product.m());
  p.n = static_cast<std::uint32_t>(product.n());
  p.k = static_cast<std::uint32_t>(a.size(1));
  p.blocks = static_cast<std::uint32_t>(product.blocks());
  p.block_steps = static_cast<std::uint32_t>(ceil_div(product.block, kStep));
  p.segments = Segments(product.m(), product.n(), product.k, product.block);
  p.unit_steps = static_cast<std::uint32_t>(
      ceil_div(p.segments.unit * std::min(product.block, product.k), kStep));
  p.short_blocks = std::min(product.block, product.k) <= 256;
  const bool large = product.plan.tile == IntPlan::Tile::Chosen
                         ? use_large(product.m(), product.n())
                         : product.plan.tile == IntPlan::Tile::Large;
  if (large)
    run_tiles<Large>(p, product);
  else
    run_tiles<Small>(p, product);
}

}  // namespace nibble::cuda
