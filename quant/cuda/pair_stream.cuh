// Both encodings of a matrix from one read (quant_pair), of itself or of GELU and its backward. One
// block a multiprocessor stays; its groups of 8 or 4 warps take tiles of 256 or 128 rows (a
// column's run) by 64 columns, a row of tiles at a time over the device, which the copy engine
// loads two tiles ahead (with dy one). survey() finds the tile's largest magnitudes: those of
// columns are complete, those of rows meet in global memory. While other groups finish that row of
// tiles, a group surveys its next one; then encode() reads each element once more and encodes it
// twice, with one draw. A warp beside each group, its clerk, tells and asks the other groups, which
// takes microseconds.
//
// Moves 2 or 4 bytes an element in and 1 + 1 out, producers 2 or 4 more for each other tensor of
// theirs; issues about 14 instructions an element, 28 with noise and sums, of some 32 that an H200
// can while it moves 4 bytes. Measured: 50 to 75 % of a copy's bandwidth, the backward of GELU with
// noise and sums 62 % (tests/bench/results/2026-11-29-pair.md).
#pragma once

#include <cooperative_groups.h>

#include "quant/cuda/pair_tile_encode.cuh"
#include "quant/cuda/pair_tile_survey.cuh"
#include "tensor/cuda/launch_together.h"
#include "tensor/cuda/tensor_map.h"

namespace nibble::cuda::stream_pair {

// What a warp or clerk of a group shares with the others.
template <Kind kKind, class T, std::uint32_t kRun>
struct Group {
  const Arguments<T>& a;
  Memory<T, kRun>& memory;
  Walk<kRun, T> tiles;

  __device__ Group(const Arguments<T>& args, Memory<T, kRun>& shared, std::uint32_t number)
      : a(args),
        memory(shared),
        // Neighbouring tiles are worked on at the same time, by different multiprocessors.
        tiles(args, number * gridDim.x + blockIdx.x, gridDim.x * Groups<T, kRun>::kCount) {}

  static constexpr bool kTakesDy = kKind == Kind::GeluBackward;

  // By one thread.
  __device__ void load(const CUtensorMap& from, const Walk<kRun, T>& ahead, std::uint64_t& full,
                       std::uint32_t slot) const {
    if (ahead.ended()) return;
    const Tile tile = ahead.tile();
    const std::uint32_t barrier = shared_address(&full);
    hopper::arrive_expecting(barrier, Groups<T, kRun>::kTileBytes);
    hopper::load_tile(shared_address(memory.slots[slot]), from, barrier, tile.col0, tile.row0);
  }
  __device__ void load_x(const Walk<kRun, T>& ahead, std::uint32_t slot) const {
    load(a.x, ahead, memory.full[slot], slot);
  }
  // dy of a tile comes to the slot that x of the next one takes when both are surveyed.
  __device__ void load_dy(const Walk<kRun, T>& ahead, std::uint32_t number) const {
    load(a.other, ahead, memory.full_dy[number % 2], (number + 1) % kSlots);
  }
  __device__ void prepare() const {
    const auto init = [](std::uint64_t& barrier, std::uint32_t arrivals) {
      hopper::init_barrier(shared_address(&barrier), arrivals);
    };
    for (std::uint64_t& full : memory.full) init(full, 1);
    for (std::uint64_t& full : memory.full_dy) init(full, 1);
    for (std::uint64_t& surveyed : memory.surveyed) init(surveyed, memory.kWarps * kWarp);
    for (std::uint64_t& ready : memory.ready) init(ready, kWarp);
    init(memory.empty, memory.kWarps * kWarp);
    hopper::fence_barrier_init();
    Walk<kRun, T> ahead = tiles;
    if constexpr (kTakesDy) load_x(ahead, 0);
    for (std::uint32_t s = 0; s < (kTakesDy ? 2 : kSlots); ++s, ahead.advance())
      kTakesDy ? load_dy(ahead, s) : load_x(ahead, s);
  }
  // For each lane: racecheck does not see that one speaks for a warp.
  __device__ static void arrive(std::uint64_t& barrier) {
    hopper::arrive(shared_address(&barrier));
  }

  // Scales of the tile's columns, from what the warps found.
  __device__ void settle_columns(std::uint32_t parity, const Tile& tile) const {
    bool unusual = false;
#pragma unroll
    for (std::uint32_t c = threadIdx.x % kWarp; c < kColumns; c += kWarp) {
      std::uint32_t most = 0;
#pragma unroll
      for (std::uint32_t w = 0; w < memory.kWarps; ++w)
        most = ::max(most, std::uint32_t{memory.column_most[parity][w][c]});
      most <<= memory.kShift;
      unusual = unusual || most >= kNotFinite;
      const StepAndFactor scale(a.column_rule, a.column_inverse, most);
      memory.column_factor[parity][c] = scale.factor;
      if (const std::uint32_t col = tile.col0 + c; a.column_codes && col < a.cols)
        a.column_steps[std::int64_t{col} * a.runs + tile.run] = scale.step;
    }
    unusual = __any_sync(kFullMask, unusual);
    if (threadIdx.x % kWarp == 0) memory.unusual[parity] = unusual;
  }

  // Spares the warps what takes long: telling other groups, waiting for them, slots, scales.
  __device__ void clerk() const {
    const std::uint32_t lane = threadIdx.x % kWarp;
    Walk<kRun, T> ahead = tiles;
    for (std::uint32_t s = 0; s < (kTakesDy ? 1 : kSlots); ++s) ahead.advance();
    std::uint32_t number = 0;
    for (Walk<kRun, T> now = tiles; !now.ended(); now.advance(), ++number) {
      const Tile tile = now.tile();
      std::uint32_t* const arrived = a.arrived + std::int64_t{tile.run} * a.groups + tile.group;
      const std::uint32_t parity = number % 2;
      hopper::wait(shared_address(&memory.surveyed[parity]), number / 2 % 2);
      if (lane == 0) {
        hopper::add_releasing(arrived, 1);
        if constexpr (kTakesDy) load_x(ahead, (number + 1) % kSlots);
      }
      settle_columns(parity, tile);
      if (number > 0) {
        hopper::wait(shared_address(&memory.empty), (number - 1) % 2);
        if (lane == 0) kTakesDy ? load_dy(ahead, number + 1) : load_x(ahead, (number - 1) % kSlots);
      }
      if (kTakesDy || number > 0) ahead.advance();
      while (hopper::load_acquiring(arrived) < a.expected) __nanosleep(20);
      std::uint32_t most[kRun / kWarp];
#pragma unroll
      for (std::uint32_t k = 0; k < kRun / kWarp; ++k) {
        const std::uint32_t row = tile.row0 + k * kWarp + lane;
        most[k] = row < a.rows ? __ldcg(a.row_most + std::int64_t{tile.group} * a.rows + row) : 0;
      }
#pragma unroll
      for (std::uint32_t k = 0; k < kRun / kWarp; ++k)
        memory.row_most[parity][k * kWarp + lane] =
            static_cast<Memory<T, kRun>::Bits>(most[k] >> memory.kShift);
      arrive(memory.ready[parity]);
    }
  }

  // Surveys a tile, then encodes the one before. `clear` waits until row_most and arrived are.
  template <bool kStochastic, class F>
  __device__ void work(const std::uint32_t* table, F&& clear) const {
    const std::uint32_t own = threadIdx.x % kRun;  // row of a tile
    const KeyedDraws::Stream draws = a.keys.stream(kStochastic);
    hopper::Ring<kSlots> slot;
    Tile before{};
    const T* slot_before = nullptr;
    std::uint32_t number = 0;
    for (Walk<kRun, T> now = tiles;; now.advance(), ++number) {
      const bool surveys = !now.ended();
      const std::uint32_t parity = number % 2;
      const Tile tile = now.tile();
      std::uint32_t most = 0;
      if (surveys) most = survey<kKind>(a, memory, slot, number, tile, table);
      if (number == 0) clear();
      if (surveys) {
        if (const std::uint32_t row = tile.row0 + own; row < a.rows)
          atomicMax(a.row_most + std::int64_t{tile.group} * a.rows + row, most);
        if constexpr (kTakesDy) hopper::fence_for_copy_engine();
        arrive(memory.surveyed[parity]);
      }
      if (number > 0) {
        hopper::wait(shared_address(&memory.ready[parity ^ 1]), (number - 1) / 2 % 2);
        if (a.encodes) encode<kStochastic>(a, memory, slot_before, parity ^ 1, before, draws);
        hopper::fence_for_copy_engine();
        arrive(memory.empty);
      }
      if (!surveys) return;
      before = tile;
      slot_before = memory.slots[slot.stage];
      slot.advance();
    }
  }
};

template <Kind kKind, bool kStochastic, class T, std::uint32_t kRun>
__global__ void __launch_bounds__(Groups<T, kRun>::kBlock, 1)
    pair_kernel(const __grid_constant__ Arguments<T> a) {
  using Form = Groups<T, kRun>;
  extern __shared__ __align__(128) unsigned char shared[];
  auto* const memories = reinterpret_cast<Memory<T, kRun>*>(shared);
  auto* const table = reinterpret_cast<std::uint32_t*>(memories + Form::kCount);
  const bool works = threadIdx.x < Form::kWorkers;
  const std::uint32_t number = works ? threadIdx.x / kRun : (threadIdx.x - Form::kWorkers) / kWarp;
  const Group<kKind, T, kRun> group(a, memories[number], number);
  if (!works && threadIdx.x % kWarp == 0) group.prepare();
  for (std::uint32_t i = blockIdx.x * Form::kBlock + threadIdx.x; i < a.clears;
       i += gridDim.x * Form::kBlock)
    a.row_most[i] = 0;
  if constexpr (kHasTable<kKind, T>) fill_table(table);
  const auto grid = cooperative_groups::this_grid();
  auto cleared = grid.barrier_arrive();  // synchronizes the block, too
  const auto clear = [&] { grid.barrier_wait(std::move(cleared)); };
  if (works) {
    group.template work<kStochastic>(table, clear);
  } else {
    clear();
    group.clerk();
  }
}

// ---- launch -----------------------------------------------------------------------------------

template <Kind kKind, bool kStochastic, class T, std::uint32_t kRun>
void launch_pair(Arguments<T>& a) {
  using Form = Groups<T, kRun>;
  const auto kernel = pair_kernel<kKind, kStochastic, T, kRun>;
  constexpr std::size_t kShared =
      sizeof(Memory<T, kRun>) * Form::kCount + (kHasTable<kKind, T> ? kGeluEntries * 4 : 0);
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
    a.expected = 0;
    launch_together(kernel, blocks, Form::kBlock, kShared, a);
    a.encodes = true;
    a.clears = 0;
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
