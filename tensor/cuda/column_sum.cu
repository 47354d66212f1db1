// db[n] (+)= Σ_m dy[m, n]. Reads every element once, 4 or 2 bytes, and writes and reads again a
// sum of four bytes for each 512 rows of a column: bound by memory. Bit-equal to the CPU
// (tests/cuda/test_cuda_reduce.cpp).
#include "tensor/cuda/column_blocks.cuh"
#include "tensor/cuda/columns.cuh"
#include "tensor/kernels.h"

namespace nibble::cuda {
namespace {

constexpr int kSixteen = kSumRows / 4, kSixteens = kBandRows / kSixteen;

// A block takes one band of 1 << log_width vectors of columns, 64 columns at most. All threads add
// up sixteens of rows, then one thread a column goes through them in order.
template <int V, class T>
__global__ void __launch_bounds__(256)
    sum_band_kernel(float* sums, const T* x, std::int64_t rows, std::int64_t cols,
                    std::int64_t tiles, int log_width) {
  __shared__ float sixteens[kSixteens][64];
  const std::int64_t band = blockIdx.x / tiles, c0 = (blockIdx.x % tiles << log_width) * V;
  const int width = 1 << log_width, v = static_cast<int>(threadIdx.x) & (width - 1);
  const std::int64_t left = rows - band * kBandRows;
  const T* first = x + band * kBandRows * cols + c0 + v * V;
  if (c0 + v * V < cols) {
    for (int s = static_cast<int>(threadIdx.x) >> log_width; s < kSixteens; s += 256 >> log_width) {
      float sum[V] = {};
#pragma unroll 2
      for (int r = s * kSixteen; r < (s + 1) * kSixteen; r += 4) {
        Vector<T, V> in[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if (r + k < left) {
            in[k] = load_vector<T, V>(first + (r + k) * cols);
          } else {
#pragma unroll
            for (int e = 0; e < V; ++e) in[k][e] = T(0.0f);
          }
        }
#pragma unroll
        for (int e = 0; e < V; ++e)
          sum[e] += sum_four(to_float(in[0][e]), to_float(in[1][e]), to_float(in[2][e]),
                             to_float(in[3][e]));
      }
#pragma unroll
      for (int e = 0; e < V; ++e) sixteens[s][v * V + e] = sum[e];
    }
  }
  __syncthreads();
  const auto column = static_cast<int>(threadIdx.x);
  if (column >= width * V || c0 + column >= cols) return;
  float total = 0;
#pragma unroll
  for (int s = 0; s < kSixteens; s += 4)
    total += sum_four(sixteens[s][column], sixteens[s + 1][column], sixteens[s + 2][column],
                      sixteens[s + 3][column]);
  sums[band * cols + c0 + column] = total;
}

template <int V, class T>
void sum_bands(Tensor& sums, const Tensor& x) {
  const std::int64_t cols = x.size(1);
  int log_width = 0;
  while ((2 << log_width) * V <= 64 && (std::int64_t{1} << log_width) * V < cols) ++log_width;
  const std::int64_t tiles = ceil_div(cols, (std::int64_t{1} << log_width) * V);
  launch(sum_band_kernel<V, T>, static_cast<unsigned>(sums.size(0) * tiles), 256, 0,
         sums.data<float>(), x.data<T>(), x.size(0), cols, tiles, log_width);
}

}  // namespace

void column_sum(Tensor& db, const Tensor& dy, bool accumulate) {
  const std::int64_t cols = dy.size(1), bands = ceil_div(dy.size(0), kBandRows);
  Tensor sums = Tensor::empty({bands, cols}, DType::F32, dy.device());
  NIBBLE_CUDA_FLOAT_SWITCH(dy.dtype(), "column_sum", T, {
    if (cols % kVector<T> == 0 && is_aligned(dy.data<T>(), 16))
      sum_bands<kVector<T>, T>(sums, dy);
    else
      sum_bands<1, T>(sums, dy);
  });
  NIBBLE_CUDA_FLOAT_SWITCH(db.dtype(), "column_sum", D, {
    fold_bands<SumFold>(sums, 1, bands, cols, StoreOrAdd<D>{db.data<D>(), accumulate});
  });
}

}  // namespace nibble::cuda
