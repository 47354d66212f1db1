// What a thread group of the pair kernel (pair_stream.cuh) works on: arguments, shared memory,
// tiles.
#pragma once

#include "quant/cuda/one_pass.cuh"
#include "quant/kernels.h"
#include "tensor/cuda/column_blocks.cuh"
#include "tensor/cuda/hopper.cuh"

namespace nibble::cuda {
CUtensorMap box_map(const void* base, std::int64_t rows, std::int64_t cols, int element_bytes,
                    std::uint32_t box_rows, std::uint32_t box_cols);
namespace hopper {
// A box of a matrix to the second-level cache only.
__device__ inline void prefetch_tile(const CUtensorMap& map, std::uint32_t x, std::uint32_t y) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(&map),
               "r"(x), "r"(y)
               : "memory");
}
}  // namespace hopper
}  // namespace nibble::cuda
namespace nibble::cuda::stream_pair {

using Kind = PairSource::Kind;

// A tile: kRun rows, which share a column's scale, of kColumns columns. A warp of its group has
// kWarpRows of them.
inline constexpr std::uint32_t kColumns = 64, kWarpRows = 32, kSlots = 3;

template <class T>
struct Arguments {
  CUtensorMap x, other;  // other: dy
  const T* dy;
  T* value;                                // may be null
  std::uint8_t *row_codes, *column_codes;  // column_codes may be null
  float *row_steps, *column_steps, *sums;  // sums: of 64 rows each [ceil(rows / 64), cols], or null
  std::uint32_t *row_most, *arrived;       // [groups, rows], then [runs, groups]
  std::uint32_t clears;                    // words of both that are to be zeros first
  std::uint32_t rows, cols, runs, across;  // runs of a column, tiles of a row
  std::uint32_t together, groups;          // tiles of a row's group, groups of a row
  std::uint32_t expected;                  // tiles that must have arrived before codes are made
  bool encodes;                            // else only row_most is found
  float row_high, column_high;
  std::uint32_t row_pair, column_pair;  // the same in both 16-bit halves
  one_pass::Rule row_rule, column_rule;
  KeyedDraws keys;
};

// How a block is cut into groups that work on tiles of their own.
template <class T, std::uint32_t kRun>
struct Groups {
  static constexpr std::uint32_t kBlock = sizeof(T) == 2 ? 512 : 256, kCount = kBlock / kRun;
  static constexpr std::uint32_t kTileBytes = kRun * kColumns * sizeof(T);
};

// A group's shared memory.
template <class T, std::uint32_t kRun>
struct alignas(128) Memory {
  static constexpr std::uint32_t kWarps = kRun / kWarpRows;
  T slots[kSlots][kRun * kColumns];
  std::uint32_t column_most[kWarps][kColumns];
  float parts[kWarps][kColumns];     // column sums of a warp's rows
  float column_factor[2][kColumns];  // of this tile and the one before
  std::uint32_t unusual[2][2];       // of those tiles' halves: columns with NaN or infinities
  std::uint64_t full[kSlots];
};

// Pairs of bf16 are taken apart as words, which the compiler does not find by itself.
__device__ inline void widen_four(const Vector<bfloat16, 4>& x, float* to) {
  const auto w = *reinterpret_cast<const uint2*>(&x);
  to[0] = std::bit_cast<float>(w.x << 16), to[1] = std::bit_cast<float>(w.x & 0xffff0000u);
  to[2] = std::bit_cast<float>(w.y << 16), to[3] = std::bit_cast<float>(w.y & 0xffff0000u);
}
__device__ inline void widen_four(const Vector<float, 4>& x, float* to) {
#pragma unroll
  for (int k = 0; k < 4; ++k) to[k] = x[k];
}

struct Tile {
  std::uint32_t run, group, row0, col0;
  bool leads;  // of its rows' group

  template <std::uint32_t kRun, class T>
  __device__ static Tile at(const Arguments<T>& a, std::uint32_t item) {
    const std::uint32_t run = item / a.across, place = item - run * a.across;
    const std::uint32_t group = place / a.together;
    return {run, group, run * kRun, place * kColumns, group * a.together == place};
  }
};

}  // namespace nibble::cuda::stream_pair
