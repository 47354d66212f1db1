// The two kernels of the spike. row_produce: a producer that writes bf16 and, for row scales, row
// and column absmax. tile_encode: a producer (or a plain re-read) that writes int8 codes in both
// orientations from a 128 × 128 tile, with scales given (row family) or found in the tile.
#pragma once

#include <cooperative_groups.h>

#include "noise.cuh"
#include "producers.cuh"

namespace nibble::spike {

constexpr int kTile = 128;

struct RowOutputs {
  bf16* dense = nullptr;
  std::uint32_t* row_absmax = nullptr;  // float bits, zeroed before
  std::uint32_t* col_absmax = nullptr;
  float* col_partials = nullptr;  // [terms][gridDim.x][cols]
};

__device__ inline std::uint32_t abs2(std::uint32_t w) { return w & 0x7fff7fffu; }
/// Both halves' maximum of non-negative bf16 pairs; as unsigned integers they order like floats.
__device__ inline std::uint32_t max2(std::uint32_t a, std::uint32_t b) { return __vmaxu2(a, b); }
__device__ inline std::uint32_t high_as_float(std::uint32_t w) { return w & 0xffff0000u; }
__device__ inline std::uint32_t low_as_float(std::uint32_t w) { return w << 16; }

__device__ inline void raise(std::uint32_t* p, std::uint32_t bits) {
  // The plain read only skips atomics that cannot raise the maximum; it never decides a value.
  if (bits > __ldcg(p)) atomicMax(p, bits);
}

template <class P, bool kStore, bool kAbsmax>
__global__ __launch_bounds__(256, 2) void row_produce(P p, int rows, int cols, RowOutputs out) {
  constexpr int kRows = 4;
  constexpr int kTerms = P::kColTerms;
  const int slab = cols / 8 / gridDim.y;
  const bool active = int(threadIdx.x) < slab;
  const int col = 8 * (int(blockIdx.y) * slab + int(threadIdx.x));
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  typename P::Columns columns{};
  if (active) columns = p.columns(col);
  uint4 col_max{0, 0, 0, 0};
  float sums[kTerms > 0 ? kTerms : 1][8] = {};
  __shared__ float2 partial[2][kRows][8];

  int parity = 0;
  for (int row0 = blockIdx.x * kRows; row0 < rows; row0 += gridDim.x * kRows, parity ^= 1) {
    typename P::Raw raw[kRows] = {};
#pragma unroll
    for (int i = 0; i < kRows; ++i)
      if (active && row0 + i < rows) raw[i] = p.load(row0 + i, col, cols);
    typename P::Row row[kRows];
    if constexpr (P::kRowSums) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        float2 s = active ? p.sums(raw[i], columns) : float2{0, 0};
        for (int d = 16; d > 0; d /= 2) {
          s.x += __shfl_xor_sync(~0u, s.x, d);
          s.y += __shfl_xor_sync(~0u, s.y, d);
        }
        if (lane == 0) partial[parity][i][warp] = s;
      }
      __syncthreads();  // two buffers: one barrier an iteration is enough
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        float2 total{0, 0};
        for (int w = 0; w < warps; ++w) {
          total.x += partial[parity][i][w].x;
          total.y += partial[parity][i][w].y;
        }
        row[i] = p.row(total, cols);
        if (threadIdx.x == 0 && row0 + i < rows) p.store_row(row0 + i, row[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const bool live = active && row0 + i < rows;
      uint4 packed{0, 0, 0, 0};
      if (live) {
        float v[8];
        p.value(raw[i], p.late(row0 + i, col, cols), row[i], columns, v);
        packed = pack8(v);
        if constexpr (kStore)
          *reinterpret_cast<uint4*>(out.dense + std::size_t(row0 + i) * cols + col) = packed;
        if constexpr (kTerms > 0) {
          unpack8(packed, v);
          p.col_terms(raw[i], row[i], columns, v, sums);
        }
      }
      if constexpr (kAbsmax) {
        const uint4 a{abs2(packed.x), abs2(packed.y), abs2(packed.z), abs2(packed.w)};
        col_max = {max2(col_max.x, a.x), max2(col_max.y, a.y), max2(col_max.z, a.z),
                   max2(col_max.w, a.w)};
        const std::uint32_t m = max2(max2(a.x, a.y), max2(a.z, a.w));
        const std::uint32_t bits = __reduce_max_sync(~0u, max(high_as_float(m), low_as_float(m)));
        if (lane == 0 && row0 + i < rows) atomicMax(out.row_absmax + row0 + i, bits);
      }
    }
  }
  if constexpr (kAbsmax) {  // staged, so that a warp's atomics fall into few sectors
    __shared__ std::uint32_t stage[256 * 8];
    const std::uint32_t w[4] = {col_max.x, col_max.y, col_max.z, col_max.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      stage[8 * threadIdx.x + 2 * j] = low_as_float(w[j]);
      stage[8 * threadIdx.x + 2 * j + 1] = high_as_float(w[j]);
    }
    __syncthreads();
    for (int c = int(threadIdx.x); c < 8 * slab; c += int(blockDim.x))
      raise(out.col_absmax + 8 * int(blockIdx.y) * slab + c, stage[c]);
  }
  if (!active) return;
#pragma unroll
  for (int t = 0; t < kTerms; ++t)
#pragma unroll
    for (int j = 0; j < 8; ++j)
      out.col_partials[(std::size_t(t) * gridDim.x + blockIdx.x) * cols + col + j] = sums[t][j];
}

enum class Scales { kRowCol, kTile, kGroup };

struct TileOutputs {
  std::int8_t* codes = nullptr;    // [rows, cols]
  std::int8_t* codes_t = nullptr;  // [cols, rows]
  float* scales = nullptr;         // kRowCol [rows]; kTile [row tiles][col tiles]; kGroup
  float* scales_t = nullptr;       // [rows][col tiles]; and [cols], -, [cols][row tiles]
  const std::uint32_t* row_absmax = nullptr;  // kRowCol only
  const std::uint32_t* col_absmax = nullptr;
  float* col_partials = nullptr;  // [terms][gridDim.y][cols]
};

/// Four words of four row-codes each, transposed: word j holds the codes of column j.
__device__ inline void transpose4(const std::uint32_t (&w)[4], std::uint32_t (&t)[4]) {
  const std::uint32_t a = __byte_perm(w[0], w[1], 0x5140), b = __byte_perm(w[0], w[1], 0x7362);
  const std::uint32_t c = __byte_perm(w[2], w[3], 0x5140), d = __byte_perm(w[2], w[3], 0x7362);
  t[0] = __byte_perm(a, c, 0x5410);
  t[1] = __byte_perm(a, c, 0x7632);
  t[2] = __byte_perm(b, d, 0x5410);
  t[3] = __byte_perm(b, d, 0x7632);
}

__device__ inline std::uint32_t join4(std::uint32_t a, std::uint32_t b, std::uint32_t c,
                                      std::uint32_t d) {
  return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

}  // namespace nibble::spike
