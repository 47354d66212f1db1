// Softmax of rows whose scores come a tile at a time (online softmax, Milakov and Gimelshein 2018),
// on the accumulators of attention_mma.cuh.
#pragma once

#include "tensor/cuda/attention_mma.cuh"

namespace nibble::cuda {

// Running maximum (of unscaled scores) and sum of the rows of a warp; a lane has two of each 16.
template <int kRowTiles>
struct OnlineSoftmax {
  float max[kRowTiles][2], sum[kRowTiles][2];
  float shrink[kRowTiles][2];  // what sums under the old maximum are to be multiplied by

  __device__ OnlineSoftmax() {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) max[i][half] = -INFINITY, sum[i][half] = 0;
  }
  // Scores become probabilities relative to the new maximum. `scale` is positive.
  template <int kKeys>
  __device__ void update(Accumulators<kRowTiles, kKeys>& s, float scale) {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float m = max[i][half];
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n)
          m = fmaxf(m, fmaxf(s.v[i][n][2 * half], s.v[i][n][2 * half + 1]));
        m = fmaxf(m, __shfl_xor_sync(kFullMask, m, 1));
        m = fmaxf(m, __shfl_xor_sync(kFullMask, m, 2));
        // While only -inf was seen, any finite reference gives the right sum, 0.
        const float reference = m == -INFINITY ? 0 : m * scale;
        shrink[i][half] = exp2_fast(fmaf(max[i][half], scale, -reference));
        max[i][half] = m;
        float total = 0;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e)
            total += s.v[i][n][e] = exp2_fast(fmaf(s.v[i][n][e], scale, -reference));
        sum[i][half] = fmaf(sum[i][half], shrink[i][half], total);
      }
  }
  // Brings what was summed before the last update to its maximum.
  template <int kWidth>
  __device__ void rescale(Accumulators<kRowTiles, kWidth>& out) const {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) out.v[i][n][e] *= shrink[i][e / 2];
  }
  // The lanes of a row kept partial sums.
  __device__ void finish() {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        sum[i][half] += __shfl_xor_sync(kFullMask, sum[i][half], 1);
        sum[i][half] += __shfl_xor_sync(kFullMask, sum[i][half], 2);
      }
  }
  // Of the warp's rows from `first_row` on, `score_scale` not negative.
  __device__ void store_lse(float* lse, int first_row, int rows, float score_scale) const {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int t = first_row + 16 * i + 8 * half + lane / 4;
        if (lane % 4 == 0 && t < rows) lse[t] = max[i][half] * score_scale + logf(sum[i][half]);
      }
  }
};

}  // namespace nibble::cuda
