// GELU's backward form with the sums of dx over rows: 6 bytes an element in bf16, and the sums of
// each 64 rows of a column, 8 bytes more for 384; some 10 operations an element by table
// (gelu_table.cuh). Bound by memory. Sums apart would read dx again: 2 bytes more.
// Measured: tests/bench/results/2026-11-30-bf16.md.
#include "tensor/activation_sums.h"
#include "tensor/cuda/column_blocks.cuh"
#include "tensor/cuda/gelu_table.cuh"

namespace nibble::cuda {
namespace {

constexpr int V = kVector<bfloat16>;

// Rows of vectors.
struct Matrices {
  uint4* dx;
  const uint4 *x, *dy;
  std::int64_t rows, stride;
};

// Adds the 8 columns of four rows, pairwise.
__device__ inline void add_four(float (&sum)[V], const uint4 (&rows)[4]) {
  const auto number = [&](int row, int e) {
    const std::uint32_t words[4] = {rows[row].x, rows[row].y, rows[row].z, rows[row].w};
    return __uint_as_float(e % 2 == 0 ? words[e / 2] << 16 : words[e / 2] & 0xffff0000u);
  };
#pragma unroll
  for (int e = 0; e < V; ++e)
    sum[e] += sum_four(number(0, e), number(1, e), number(2, e), number(3, e));
}

// dx of 16 rows of a thread's vector, and their sums. Rows from `left` on are missing.
__device__ inline void sixteen_rows(float (&sum)[V], const Matrices& m, std::int64_t at,
                                    std::int64_t left, const std::uint32_t* table) {
#pragma unroll
  for (int e = 0; e < V; ++e) sum[e] = 0;
#pragma unroll 1
  for (int r = 0; r < 16; r += 4, at += 4 * m.stride) {
    uint4 x[4] = {}, dy[4] = {};
#pragma unroll
    for (int k = 0; k < 4; ++k)
      if (r + k < left) x[k] = m.x[at + k * m.stride], dy[k] = m.dy[at + k * m.stride];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (r + k >= left) continue;
      const std::int64_t row = at + k * m.stride;
      if (look_up<true>(x[k], x[k], dy[k], table)) {
        m.dx[row] = x[k];
      } else {
        compute<true>(m.dx + row, m.x + row, m.dy + row);
        x[k] = m.dx[row];
      }
    }
    add_four(sum, x);
  }
}

// A warp takes 64 rows of 256 columns at a time. sums [blocks of 64 rows, cols].
__global__ void __launch_bounds__(kTableBlock, 1)
    gelu_sums_kernel(float* sums, const Matrices m, std::int64_t tiles, std::int64_t tasks) {
  __shared__ std::uint32_t table[kGeluEntries];
  fill_table<true>(table);
  constexpr unsigned kWarps = kTableBlock / kWarp;
  for (std::int64_t task = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp; task < tasks;
       task += std::int64_t{gridDim.x} * kWarps) {
    const std::int64_t block = task / tiles, row = block * kSumRows;
    const std::int64_t vector = task % tiles * kWarp + threadIdx.x % kWarp;
    if (vector >= m.stride) continue;
    // Sixteens of rows pairwise, as sum_four does.
    float total[V], pair[V], sum[V];
    const auto sixteen = [&](float(&to)[V], int s) {
      sixteen_rows(to, m, (row + 16 * s) * m.stride + vector, m.rows - row - 16 * s, table);
    };
    const auto add = [](float(&to)[V], const float(&x)[V]) {
#pragma unroll
      for (int e = 0; e < V; ++e) to[e] += x[e];
    };
    sixteen(total, 0);
    sixteen(sum, 1);
    add(total, sum);
    sixteen(pair, 2);
    sixteen(sum, 3);
    add(pair, sum);
    add(total, pair);
    float* const to = sums + (block * m.stride + vector) * V;
#pragma unroll
    for (int e = 0; e < V; e += 4)
      *reinterpret_cast<float4*>(to + e) = {total[e], total[e + 1], total[e + 2], total[e + 3]};
  }
}

}  // namespace

void gelu_tanh_backward_sums(Tensor& dx, Tensor& sums, const Tensor& dy, const Tensor& x) {
  const std::int64_t rows = dx.size(0), cols = dx.size(1);
  const bool aligned = cols % V == 0 && is_aligned(dx.raw(), 16) && is_aligned(x.raw(), 16) &&
                       is_aligned(dy.raw(), 16);
  if (dx.dtype() != DType::BF16 || dx.numel() < kTableElements || !aligned) {
    gelu_tanh_backward(dx, dy, x);
    return column_sum(sums, dx, false);
  }
  const std::int64_t blocks = ceil_div(rows, kSumRows), tiles = ceil_div(cols, kWarp * V);
  Tensor parts = Tensor::empty({blocks, cols}, DType::F32, dx.device());
  launch(gelu_sums_kernel, grid_for(blocks * tiles, kTableBlock / kWarp, 1), kTableBlock, 0,
         parts.data<float>(),
         Matrices{reinterpret_cast<uint4*>(dx.raw()), reinterpret_cast<const uint4*>(x.raw()),
                  reinterpret_cast<const uint4*>(dy.raw()), rows, cols / V},
         tiles, blocks * tiles);
  fold_blocks(parts, StoreOrAdd<float>{sums.data<float>(), false});
}

}  // namespace nibble::cuda
