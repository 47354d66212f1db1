// Both encodings of a matrix from one read (quant_pair), of itself or of GELU and its backward. One
// block a multiprocessor stays; its groups of 256 or 128 threads take tiles of as many rows (a
// column's run) by 64 columns, a row of tiles at a time over the device. The copy engine is two
// tiles ahead. survey() finds the tile's largest magnitudes: those of columns are complete, those
// of rows meet in global memory, and while other groups finish that row of tiles the group surveys
// its next tile; then encode() reads each element once more and encodes it twice, with one draw.
//
// Moves 2 or 4 bytes an element in and 1 + 1 out, producers 2 or 4 more for each other tensor of
// theirs; computes about 11 operations an element, 22 with noise, against some 28 that an H200 can
// do while it moves 4 bytes. Measured: tests/bench/results/2026-11-29-pair.md.
#pragma once

#include <cooperative_groups.h>

#include "quant/cuda/pair_tile_encode.cuh"
#include "quant/cuda/pair_tile_survey.cuh"
#include "tensor/cuda/launch_together.h"
#include "tensor/cuda/tensor_map.h"

namespace nibble::cuda::stream_pair {

// Scales of the tile's columns and sums of its 64 rows each, from what the warps found.
template <class T, std::uint32_t kRun>
__device__ void settle_columns(const Arguments<T>& a, Memory<T, kRun>& memory, std::uint32_t parity,
                               const Tile& tile) {
  const std::uint32_t thread = threadIdx.x % kRun, c = thread % kColumns, col = tile.col0 + c;
  if (a.sums) {
    const std::uint32_t part = thread / kColumns;
    if (const std::uint32_t row = tile.row0 + part * kSumRows; row < a.rows && col < a.cols)
      a.sums[std::int64_t{row / kSumRows} * a.cols + col] =
          memory.parts[2 * part][c] + memory.parts[2 * part + 1][c];
  }
  if (thread >= kColumns) return;
  std::uint32_t most = 0;
#pragma unroll
  for (std::uint32_t w = 0; w < memory.kWarps; ++w) most = ::max(most, memory.column_most[w][c]);
  const float step = a.column_rule.of_largest(most);
  memory.column_factor[parity][c] = codec::multiplier_of(step);
  if (a.column_codes && col < a.cols) a.column_steps[std::int64_t{col} * a.runs + tile.run] = step;
  const bool unusual = __any_sync(kFullMask, most >= 0x7f800000u);
  if (thread % kWarp == 0) memory.unusual[parity][thread / kWarp] = unusual;
}

template <Kind kKind, bool kStochastic, class T, std::uint32_t kRun>
__global__ void __launch_bounds__(Groups<T, kRun>::kBlock, 1)
    pair_kernel(const __grid_constant__ Arguments<T> a) {
  using Form = Groups<T, kRun>;
  extern __shared__ __align__(128) unsigned char shared[];
  auto* const memories = reinterpret_cast<Memory<T, kRun>*>(shared);
  auto* const table = reinterpret_cast<std::uint32_t*>(memories + Form::kCount);
  const std::uint32_t group = threadIdx.x / kRun, thread = threadIdx.x % kRun;
  const std::uint32_t lane = thread % kWarp, warp_row = thread / kWarp * kWarpRows;
  Memory<T, kRun>& memory = memories[group];
  // Neighbouring tiles are worked on at the same time, by different multiprocessors.
  const std::uint32_t items = a.runs * a.across, stride = gridDim.x * Form::kCount;
  const std::uint32_t first = group * gridDim.x + blockIdx.x;
  const auto load = [&](std::uint32_t item, std::uint32_t stage) {
    if (item >= items) return;
    const Tile tile = Tile::at<kRun>(a, item);
    const std::uint32_t full = shared_address(&memory.full[stage]);
    hopper::arrive_expecting(full, Form::kTileBytes);
    hopper::load_tile(shared_address(memory.slots[stage]), a.x, full, tile.col0, tile.row0);
    if constexpr (kKind == Kind::GeluBackward) hopper::prefetch_tile(a.other, tile.col0, tile.row0);
  };
  if (thread == 0) {
    for (std::uint64_t& full : memory.full) hopper::init_barrier(shared_address(&full), 1);
    hopper::fence_barrier_init();
    for (std::uint32_t s = 0; s < kSlots; ++s) load(first + s * stride, s);
  }
  for (std::uint32_t i = blockIdx.x * Form::kBlock + threadIdx.x; i < a.clears;
       i += gridDim.x * Form::kBlock)
    a.row_most[i] = 0;
  if constexpr (kHasTable<kKind, T>) fill_table<kKind>(table);
  const auto grid = cooperative_groups::this_grid();
  auto cleared = grid.barrier_arrive();  // synchronizes the block, too
  const auto sync = [&] { hopper::sync_threads(1 + group, kRun); };
  const KeyedDraws::Stream draws = a.keys.stream(kStochastic);
  const auto most_of = [&](const Tile& tile) {
    const std::uint32_t row = tile.row0 + warp_row + lane;
    return row < a.rows ? __ldcg(a.row_most + std::int64_t{tile.group} * a.rows + row) : 0;
  };
  const auto arrived = [&](const Tile& tile) {
    const std::uint32_t* counter = a.arrived + std::int64_t{tile.run} * a.groups + tile.group;
    return __all_sync(kFullMask, hopper::load_acquiring(counter) >= a.expected);
  };
  hopper::Ring<kSlots> now;
  std::uint32_t parity = 0, slot_before = 0;  // parity: of the tile's number
  Tile before{};
  for (std::uint32_t item = first;; item += stride) {
    const bool surveys = item < items, encodes = a.encodes && item != first;
    if (item != first && item - stride >= items) return;
    Tile tile{};
    std::uint32_t most = 0;
    bool known = false;
    if (surveys) {
      tile = Tile::at<kRun>(a, item);
      most = survey<kKind>(a, memory, now, tile, table);
    }
    if (item == first) grid.barrier_wait(std::move(cleared));
    if (surveys) {
      if (const std::uint32_t row = tile.row0 + warp_row + lane; row < a.rows)
        atomicMax(a.row_most + std::int64_t{tile.group} * a.rows + row, most);
      if (encodes && arrived(before)) {
        known = true;
        most = most_of(before);
      }
      sync();
      if (thread == 0)
        hopper::add_releasing(a.arrived + std::int64_t{tile.run} * a.groups + tile.group, 1);
      settle_columns(a, memory, parity, tile);
    }
    if (encodes) {
      if (!known) {
        while (!arrived(before)) __nanosleep(32);
        most = most_of(before);
      }
      encode<kStochastic>(a, memory, memory.slots[slot_before], parity ^ 1, before, most, draws);
    }
    hopper::fence_for_copy_engine();
    sync();
    if (thread == 0 && item != first) load(item + 2 * stride, slot_before);
    before = tile;
    slot_before = now.stage;
    parity ^= 1;
    now.advance();
  }
}

// ---- launch -----------------------------------------------------------------------------------

template <Kind kKind, bool kStochastic, class T, std::uint32_t kRun>
void launch_pair(Arguments<T>& a) {
  using Form = Groups<T, kRun>;
  const auto kernel = pair_kernel<kKind, kStochastic, T, kRun>;
  constexpr std::size_t kShared =
      sizeof(Memory<T, kRun>) * Form::kCount + (kHasTable<kKind, T> ? kTableEntries * 4 : 0);
  static_assert(kShared <= 232448);
  NIBBLE_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
  const std::int64_t items = std::int64_t{a.runs} * a.across;
  const auto blocks = static_cast<std::uint32_t>(
      std::min<std::int64_t>(multiprocessors(), ceil_div(items, Form::kCount)));
  a.encodes = true;
  a.expected = a.together;
  // A group waits for tiles that the others survey at most one round later. Rows of more tiles than
  // that are read twice: their maxima first.
  if (a.together > blocks * Form::kCount) {
    a.encodes = false;
    launch_together(kernel, blocks, Form::kBlock, kShared, a);
    a.encodes = true;
    a.expected = a.clears = 0;
  }
  launch_together(kernel, blocks, Form::kBlock, kShared, a);
}

template <Kind kKind, class T>
void run(Arguments<T>& a, bool longer, bool stochastic) {
  if constexpr (kKind != Kind::Gelu)
    if (stochastic)
      return longer ? launch_pair<kKind, true, T, 256>(a) : launch_pair<kKind, true, T, 128>(a);
  longer ? launch_pair<kKind, false, T, 256>(a) : launch_pair<kKind, false, T, 128>(a);
}

// pair_gelu.cu: a unit of its own, for the compiler.
extern template void run<Kind::Gelu>(Arguments<float>&, bool, bool);
extern template void run<Kind::Gelu>(Arguments<bfloat16>&, bool, bool);
extern template void run<Kind::GeluBackward>(Arguments<float>&, bool, bool);
extern template void run<Kind::GeluBackward>(Arguments<bfloat16>&, bool, bool);

}  // namespace nibble::cuda::stream_pair
