// db[n] (+)= Σ_m dy[m, n]. Reads every element once, 4 or 2 bytes, and writes and reads again a
// sum of four bytes for each 64 rows of a column: bound by memory. Bit-equal to the CPU
// (tests/cuda/test_cuda_reduce.cpp).
#include "tensor/cuda/column_blocks.cuh"
#include "tensor/kernels.h"

namespace nibble::cuda {
namespace {

// A warp takes 64 rows of 8 · V columns: lane (across, down) 16 rows of V of them.
template <int V, class T>
__global__ void __launch_bounds__(256) sum_blocks_kernel(float* sums, const T* x, std::int64_t rows,
                                                         std::int64_t cols, std::int64_t across) {
  constexpr int kSixteen = kSumRows / 4;
  const std::int64_t warp = blockIdx.x * std::int64_t{256 / kWarp} + threadIdx.x / kWarp;
  const unsigned lane = threadIdx.x % kWarp;
  const std::int64_t block = warp / across, column = (warp % across * 8 + lane % 8) * V;
  if (block * kSumRows >= rows) return;
  const std::int64_t row = block * kSumRows + lane / 8 * kSixteen;
  const std::int64_t count = column < cols ? rows - row : 0;
  const T* from = x + row * cols + column;
  Vector<T, V> in[kSixteen];
#pragma unroll
  for (int i = 0; i < kSixteen; ++i) {
#pragma unroll
    for (int e = 0; e < V; ++e) in[i][e] = T(0.0f);
    if (i < count) in[i] = load_vector<T, V>(from + i * cols);
  }
  float sum[V] = {};
#pragma unroll
  for (int i = 0; i < kSixteen; i += 4)
#pragma unroll
    for (int e = 0; e < V; ++e)
      sum[e] += sum_four(to_float(in[i][e]), to_float(in[i + 1][e]), to_float(in[i + 2][e]),
                         to_float(in[i + 3][e]));
#pragma unroll
  for (int distance = 8; distance < 32; distance *= 2)
#pragma unroll
    for (int e = 0; e < V; ++e) sum[e] += __shfl_xor_sync(kFullMask, sum[e], distance);
  if (lane >= 8 || column >= cols) return;
#pragma unroll
  for (int e = 0; e < V; ++e) sums[block * cols + column + e] = sum[e];
}

template <int V, class T>
void sum_blocks(Tensor& sums, const Tensor& x) {
  const std::int64_t across = ceil_div(x.size(1), 8 * V);
  launch(sum_blocks_kernel<V, T>,
         static_cast<unsigned>(ceil_div(across * sums.size(0), 256 / kWarp)), 256, 0,
         sums.data<float>(), x.data<T>(), x.size(0), x.size(1), across);
}

}  // namespace

void column_sum(Tensor& db, const Tensor& dy, bool accumulate) {
  const std::int64_t cols = dy.size(1);
  Tensor sums = Tensor::empty({ceil_div(dy.size(0), kSumRows), cols}, DType::F32, dy.device());
  NIBBLE_CUDA_FLOAT_SWITCH(dy.dtype(), "column_sum", T, {
    if (cols % kVector<T> == 0 && is_aligned(dy.data<T>(), 16))
      sum_blocks<kVector<T>, T>(sums, dy);
    else
      sum_blocks<1, T>(sums, dy);
  });
  NIBBLE_CUDA_FLOAT_SWITCH(db.dtype(), "column_sum", D,
                           fold_blocks(sums, StoreOrAdd<D>{db.data<D>(), accumulate}));
}

}  // namespace nibble::cuda
