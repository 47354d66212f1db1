// The first half of the pair kernel (pair.cuh): elements are finished in shared memory, the
// largest magnitudes of rows and columns are taken and columns added up.
#pragma once

#include "quant/cuda/pair_patch.cuh"
#include "tensor/cuda/elementwise.cuh"
#include "tensor/cuda/fast_math.cuh"

namespace nibble::cuda::pair {

// ---- largest magnitudes -----------------------------------------------------------------------

// Of the 8 columns and 4 rows that a lane reads at once; bf16 in pairs of 16-bit halves.
template <class T>
struct Largest;
template <>
struct Largest<bfloat16> {
  std::uint32_t column[4] = {};
  // To the row maxima [64] of these four rows, whose lanes are kAcross neighbours.
  __device__ void add(const Vector<bfloat16, 8> (&x)[4], std::uint32_t* rows) {
    std::uint32_t pair[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto raw = *reinterpret_cast<const uint4*>(&x[i]);
      const std::uint32_t m[4] = {raw.x & 0x7fff7fffu, raw.y & 0x7fff7fffu, raw.z & 0x7fff7fffu,
                                  raw.w & 0x7fff7fffu};
#pragma unroll
      for (int k = 0; k < 4; ++k) column[k] = __vmaxu2(column[k], m[k]);
      pair[i] = __vmaxu2(__vmaxu2(m[0], m[1]), __vmaxu2(m[2], m[3]));
    }
    std::uint32_t most[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      most[k] = __vmaxu2(__byte_perm(pair[2 * k], pair[2 * k + 1], 0x5410),
                         __byte_perm(pair[2 * k], pair[2 * k + 1], 0x7632));
#pragma unroll
      for (unsigned lane = 1; lane < kAcross; lane *= 2)
        most[k] = __vmaxu2(most[k], __shfl_xor_sync(kFullMask, most[k], lane));
    }
    const std::uint32_t across = threadIdx.x % kAcross;
    const std::uint32_t two = across & 2 ? most[1] : most[0];
    if (across < 4) atomicMax(rows + across, across & 1 ? two & 0xffff0000u : two << 16);
  }
  // To the column maxima of these columns, in every lane.
  __device__ void finish(std::uint32_t (&all)[8]) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (unsigned lane = kAcross; lane < kWarp; lane *= 2)
        column[k] = __vmaxu2(column[k], __shfl_xor_sync(kFullMask, column[k], lane));
      all[2 * k] = column[k] << 16;
      all[2 * k + 1] = column[k] & 0xffff0000u;
    }
  }
};
template <>
struct Largest<float> {
  std::uint32_t column[8] = {};
  __device__ void add(const Vector<float, 8> (&x)[4], std::uint32_t* rows) {
    const std::uint32_t across = threadIdx.x % kAcross;
#pragma unroll
    for (std::uint32_t i = 0; i < 4; ++i) {
      std::uint32_t most = 0;
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const std::uint32_t m = std::bit_cast<std::uint32_t>(x[i][k]) & 0x7fffffffu;
        column[k] = ::max(column[k], m);
        most = ::max(most, m);
      }
#pragma unroll
      for (unsigned lane = 1; lane < kAcross; lane *= 2)
        most = ::max(most, __shfl_xor_sync(kFullMask, most, lane));
      if (across == i) atomicMax(rows + i, most);
    }
  }
  __device__ void finish(std::uint32_t (&all)[8]) {
#pragma unroll
    for (int k = 0; k < 8; ++k) {
#pragma unroll
      for (unsigned lane = kAcross; lane < kWarp; lane *= 2)
        column[k] = ::max(column[k], __shfl_xor_sync(kFullMask, column[k], lane));
      all[k] = column[k];
    }
  }
};

// ---- producers --------------------------------------------------------------------------------

// fast_math.cuh; the same functors as tensor/cuda/activation.cu's.
struct GeluOf {
  static constexpr float kFastBound = fast::kGeluBound;
  __device__ float operator()(float v) const { return scalar::gelu_tanh(v); }
  __device__ static float fast(float v) { return nibble::cuda::fast::gelu_tanh(v); }
};
struct GeluBackwardOf {
  static constexpr float kFastBound = fast::kGeluBound;
  __device__ float operator()(float d, float v) const { return scalar::gelu_tanh_backward(d, v); }
  __device__ static float fast(float d, float v) {
    return nibble::cuda::fast::gelu_tanh_backward(d, v);
  }
};

template <class T>
__device__ Vector<T, 8> load_eight(const T* p) {
  T x[8];
  load_row<8>(p, x);
  return *reinterpret_cast<const Vector<T, 8>*>(x);
}
template <class T>
__device__ void store_eight(T* p, const Vector<T, 8>& x) {
  store_row<8>(p, x.v);
}

// Finishes the elements of a warp's tiles, takes their magnitudes, and adds up columns.
template <Kind kKind, class T>
__device__ void survey(const Arguments<T>& a, const Patch<T>& patch, const Place& here) {
  const std::uint32_t lane = threadIdx.x % kWarp, across = lane % kAcross;
  const std::uint32_t row = lane / kAcross * kDepth;
  for (std::uint32_t tile = threadIdx.x / kWarp * kTile; tile < here.cols; tile += kWarps * kTile) {
    const std::uint32_t col = tile + across * 8;
    const bool valid = col < here.cols && row < here.rows;
    const std::int64_t first = std::int64_t{here.row0 + row} * a.cols + here.col0 + col;
    std::uint32_t* const rows = patch.row_most + (tile >> a.log_group) * kRows + row;
    Largest<T> largest;
    float sum[8] = {};
#pragma unroll 1
    for (std::uint32_t i = 0; i < kDepth; i += 4) {
      Vector<T, 8> x[4] = {};
      if (valid) {
#pragma unroll
        for (std::uint32_t k = 0; k < 4; ++k) x[k] = load_eight(patch.at(row + i + k, col));
        if constexpr (kKind == Kind::Gelu || kKind == Kind::GeluBackward) {
          Vector<T, 8> d[4];
          if constexpr (kKind == Kind::GeluBackward)
#pragma unroll
            for (std::uint32_t k = 0; k < 4; ++k)
              d[k] = load_eight(a.other + first + std::int64_t{i + k} * a.cols);
#pragma unroll
          for (std::uint32_t k = 0; k < 4; ++k) {
            if constexpr (kKind == Kind::Gelu)
              x[k] = apply_vector<8, T>(GeluOf{}, std::make_tuple(x[k]));
            else
              x[k] = apply_vector<8, T>(GeluBackwardOf{}, std::make_tuple(d[k], x[k]));
            store_eight(patch.at(row + i + k, col), x[k]);
            if (a.value) store_eight(a.value + first + std::int64_t{i + k} * a.cols, x[k]);
          }
        }
        if (a.sums)
#pragma unroll
          for (int e = 0; e < 8; ++e)
            sum[e] += sum_four(to_float(x[0][e]), to_float(x[1][e]), to_float(x[2][e]),
                               to_float(x[3][e]));
      }
      largest.add(x, rows + i);
    }
    std::uint32_t most[8];
    largest.finish(most);
    if (a.sums)
#pragma unroll
      for (unsigned distance = kAcross; distance < kWarp; distance *= 2)
#pragma unroll
        for (int e = 0; e < 8; ++e) sum[e] += __shfl_xor_sync(kFullMask, sum[e], distance);
    if (lane >= kAcross || col >= here.cols) continue;
    store_row<8>(patch.column_most + col, most);
    if (a.sums && here.rows > 0)
      store_row<8>(a.sums + std::int64_t{here.row0 / kRows} * a.cols + here.col0 + col, sum);
  }
}

}  // namespace nibble::cuda::pair
