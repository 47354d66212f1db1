// Column sums in the order that tensor/kernels.h states for column_sum: what is left to do when the
// sums of each 64 rows are known.
#pragma once

#include "tensor/cuda/common.cuh"

namespace nibble::cuda {

inline constexpr int kSumRows = 64, kSumBlocks = 8;  // rows of a block, blocks of a band

// Four rows of a column, pairwise.
__device__ inline float sum_four(float a, float b, float c, float d) { return (a + b) + (c + d); }

// Blocks [blocks, cols] to columns: 32 of them a thread block, whose warps take the bands in turn;
// the first warp adds those up. Emit(column, sum) stores.
template <class Emit>
__global__ void __launch_bounds__(1024)
    fold_blocks_kernel(const float* sums, std::int64_t blocks, std::int64_t cols, Emit emit) {
  constexpr int kStage = 128;
  __shared__ float stage[kStage][kWarp];
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const std::int64_t column = blockIdx.x * std::int64_t{kWarp} + lane;
  const std::int64_t bands = ceil_div(blocks, kSumBlocks);
  float total = 0;
  for (std::int64_t first = 0; first < bands; first += kStage) {
    const int here = bands - first < kStage ? static_cast<int>(bands - first) : kStage;
    __syncthreads();
    if (column < cols) {
#pragma unroll 2
      for (int k = static_cast<int>(warp); k < here; k += 1024 / kWarp) {
        const std::int64_t block = (first + k) * kSumBlocks;
        float part[kSumBlocks];
#pragma unroll
        for (int b = 0; b < kSumBlocks; ++b)
          part[b] = block + b < blocks ? sums[(block + b) * cols + column] : 0.0f;
        float band = 0;
#pragma unroll
        for (int b = 0; b < kSumBlocks; ++b) band += part[b];
        stage[k][lane] = band;
      }
    }
    __syncthreads();
    if (warp != 0) continue;
    int k = 0;
    if (first == 0) total = stage[k++][lane];
#pragma unroll 8
    for (; k < here; ++k) total += stage[k][lane];
  }
  if (warp == 0 && column < cols) emit(column, total);
}
template <class Emit>
void fold_blocks(const Tensor& sums, Emit emit) {
  const std::int64_t cols = sums.size(1);
  launch(fold_blocks_kernel<Emit>, static_cast<unsigned>(ceil_div(cols, kWarp)), 1024, 0,
         sums.data<float>(), sums.size(0), cols, emit);
}

// db[i] (+)= value, in the f32 that either dtype is computed in.
template <class D>
struct StoreOrAdd {
  D* to;
  bool add;
  template <class C>
  __device__ void operator()(std::int64_t i, C value) const {
    to[i] = static_cast<D>(add ? static_cast<C>(to[i]) + value : value);
  }
};

}  // namespace nibble::cuda
