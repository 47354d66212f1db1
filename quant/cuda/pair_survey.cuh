// The first half of the pair kernel (pair.cuh): producers finish the values in shared memory, the
// largest magnitudes of rows and columns are taken and columns added up.
#pragma once

#include "quant/cuda/pair_patch.cuh"
#include "tensor/cuda/elementwise.cuh"
#include "tensor/cuda/fast_math.cuh"
#include "tensor/cuda/rows.cuh"

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
struct AddOf {
  __device__ float operator()(float a, float b) const { return a + b; }
};

// Rows of the patch become layer norms of themselves: tensor/cuda/norm.cu's arithmetic in its
// order.
template <class T, class Tile>
__device__ void normalise(const Arguments<T>& a, const Patch<T>& patch, const Place& here) {
  __shared__ float scratch[2][kWarps];
  constexpr std::uint32_t kAtOnce = kWarps / Tile::kWarps;
  const auto cols = static_cast<int>(a.cols);
  const auto width = static_cast<float>(cols);
  for (std::uint32_t first = 0; first < here.rows; first += kAtOnce) {
    const std::uint32_t row = first + threadIdx.x / Tile::kThreads;
    const int n = row < here.rows ? cols : 0;
    T* const own = patch.at(row, 0);
    const Row<T, Tile> in(own, n);
    float mu = 0, squares = 0;
    in.each([&](float v, int) { mu += v; });
    mu = row_sum<Tile>(mu, scratch[0]) / width;
    in.each([&](float v, int column) {
      const float d = column < n ? v - mu : 0.0f;
      squares = fmaf(d, d, squares);
    });
    const float inverse = 1.0f / sqrtf(row_sum<Tile>(squares, scratch[1]) / width + a.epsilon);
    const Row<T, Tile> scale(a.gamma, n);
    const std::int64_t at = here.row0 + row;
    const auto write = [&](T* to) {
      if (a.beta)
        write_row<T, Tile>(
            to, n, [=](float v, float g, float b) { return fmaf((v - mu) * inverse, g, b); }, in,
            scale, Row<T, Tile>(a.beta, n));
      else
        write_row<T, Tile>(
            to, n, [=](float v, float g) { return (v - mu) * inverse * g; }, in, scale);
    };
    write(own);
    if (n > 0 && Tile::thread() == 0) {
      a.mean[at] = mu;
      a.rstd[at] = inverse;
    }
  }
}

// What whole rows need: sums with a residual, norms. Elements of their own are done while their
// magnitudes are taken.
template <Kind kKind, class T>
__device__ void prepare(const Arguments<T>& a, const Patch<T>& patch, const Place& here) {
  constexpr int V = kVector<T>;
  const std::uint32_t vectors = a.cols / V;
  if constexpr (kKind == Kind::AddLayerNorm) {
#pragma unroll 4
    for (std::uint32_t v = threadIdx.x; v < here.rows * vectors; v += kBlock) {
      const std::uint32_t row = v / vectors, col = (v - row * vectors) * V;
      const std::int64_t at = std::int64_t{here.row0 + row} * a.cols + col;
      const auto y = apply_vector<V, T>(AddOf{}, std::make_tuple(load_vector<T>(patch.at(row, col)),
                                                                 load_vector<T>(a.other + at)));
      store_vector(patch.at(row, col), y);
      store_vector(a.sum + at, y);
    }
    __syncthreads();
  }
  static_assert(kPairBytes / kRows <= 128 * 16);
  if (vectors <= 96)  // as with_row_tile chooses
    normalise<T, RowTile<1, 3>>(a, patch, here);
  else
    normalise<T, RowTile<2, 2>>(a, patch, here);
  __syncthreads();
  if (!a.value) return;
#pragma unroll 4
  for (std::uint32_t v = threadIdx.x; v < here.rows * vectors; v += kBlock) {
    const std::uint32_t row = v / vectors, col = (v - row * vectors) * V;
    store_vector(a.value + std::int64_t{here.row0 + row} * a.cols + col,
                 load_vector<T>(patch.at(row, col)));
  }
}

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
