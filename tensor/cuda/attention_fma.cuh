// Building blocks of the f32 attention kernels: IEEE products and sums (no TF32), 16 x 16 threads
// to a block. A thread owns rows y + 16i and columns x + 16j of a tile of scores, and rows y + 16i
// and columns 4x + 64c of a tile of outputs.
#pragma once

#include "tensor/cuda/attention_dropout.cuh"
#include "tensor/scalar_math.h"

namespace nibble::cuda {

template <int kWidth_, int kTile_>
struct FmaTiling {
  static constexpr int kWidth = kWidth_, kTile = kTile_;  // kTile queries by kTile keys
  static constexpr int kThreads = 256, kOf16 = kTile / 16;
  // Rows start 4 words apart in the banks, so that 8 rows can be read 16 bytes at a time.
  static constexpr int kStride = kWidth + 4, kScoreStride = kTile + 1;
  static constexpr int kOperandBytes = kTile * kStride * 4, kScoreBytes = kTile * kScoreStride * 4;
  // The threads of a row of scores, and the consecutive columns of each.
  static constexpr int kLanes = kThreads / kTile, kRun = kTile / kLanes;
  static constexpr int kKeptBytes = kThreads * 4;
};
using FmaTiling64 = FmaTiling<64, 64>;
using FmaTiling128 = FmaTiling<128, 64>;
using FmaTiling256 = FmaTiling<256, 32>;

__device__ inline int thread_x() { return static_cast<int>(threadIdx.x % 16); }
__device__ inline int thread_y() { return static_cast<int>(threadIdx.x / 16); }

// A tile of operands times `factor`; zeros beyond `rows` and `width`.
template <class C>
__device__ void load_operand(float* tile, const float* from, std::int64_t row_stride, int rows,
                             int width, float factor = 1) {
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < C::kTile * C::kWidth; i += C::kThreads) {
    const int row = i / C::kWidth, column = i % C::kWidth;
    tile[row * C::kStride + column] =
        row < rows && column < width ? from[row * row_stride + column] * factor : 0;
  }
}

template <class C>
struct ScoreTile {
  float v[C::kOf16][C::kOf16];

  // a · bᵀ.
  __device__ void product(const float* a, const float* b) {
    each([](float& x, int, int) { x = 0; });
#pragma unroll 2
    for (int k = 0; k < C::kWidth; k += 4) {
      Vector<float, 4> x[C::kOf16], y[C::kOf16];
#pragma unroll
      for (int i = 0; i < C::kOf16; ++i) {
        x[i] = load_vector<float>(a + (thread_y() + 16 * i) * C::kStride + k);
        y[i] = load_vector<float>(b + (thread_x() + 16 * i) * C::kStride + k);
      }
#pragma unroll
      for (int i = 0; i < C::kOf16; ++i)
#pragma unroll
        for (int j = 0; j < C::kOf16; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e) v[i][j] = fmaf(x[i][e], y[j][e], v[i][j]);
    }
  }
  // f(value, row, column).
  template <class F>
  __device__ void each(F f) {
#pragma unroll
    for (int i = 0; i < C::kOf16; ++i)
#pragma unroll
      for (int j = 0; j < C::kOf16; ++j) f(v[i][j], thread_y() + 16 * i, thread_x() + 16 * j);
  }
};

template <class C>
struct OutputTile {
  static constexpr int kGroups = C::kWidth / 64;
  Vector<float, 4> v[C::kOf16][kGroups];

  // f(value, row, column).
  template <class F>
  __device__ void each(F f) {
#pragma unroll
    for (int i = 0; i < C::kOf16; ++i)
#pragma unroll
      for (int c = 0; c < kGroups; ++c)
#pragma unroll
        for (int e = 0; e < 4; ++e) f(v[i][c][e], thread_y() + 16 * i, 64 * c + 4 * thread_x() + e);
  }
  __device__ void clear() {
    each([](float& x, int, int) { x = 0; });
  }
  // += scores · b.
  __device__ void add_product(const float* scores, const float* b) {
#pragma unroll 4
    for (int k = 0; k < C::kTile; ++k) {
      float x[C::kOf16];
#pragma unroll
      for (int i = 0; i < C::kOf16; ++i) x[i] = scores[(thread_y() + 16 * i) * C::kScoreStride + k];
#pragma unroll
      for (int c = 0; c < kGroups; ++c) {
        const Vector<float, 4> y = load_vector<float>(b + k * C::kStride + 64 * c + 4 * thread_x());
#pragma unroll
        for (int i = 0; i < C::kOf16; ++i)
#pragma unroll
          for (int e = 0; e < 4; ++e) v[i][c][e] = fmaf(x[i], y[e], v[i][c][e]);
      }
    }
  }
  // Rows times factor(row).
  template <class Factor>
  __device__ void store(float* to, std::int64_t row_stride, int rows, int width, Factor factor) {
    each([&](float x, int row, int column) {
      if (row < rows && column < width) to[row * row_stride + column] = x * factor(row);
    });
  }
};

// Dropout bits of a tile of probabilities: word r · kLanes + i has those of query r and keys
// kRun · i … kRun · (i + 1) - 1. All threads draw one word.
template <class C>
__device__ void draw_kept(std::uint32_t* kept, const DropoutDraws& draws, int t0, int s0) {
  constexpr int kBits = C::kRun < 8 ? 8 : C::kRun;
  const int row = static_cast<int>(threadIdx.x) / C::kLanes;
  const int first = static_cast<int>(threadIdx.x) % C::kLanes * C::kRun;
  kept[threadIdx.x] = static_cast<std::uint32_t>(draws.bits<kBits>(t0 + row, s0 + first));
}
template <class C>
__device__ bool survives(const std::uint32_t* kept, int query, int key) {
  return (kept[query * C::kLanes + key / C::kRun] >> (key % C::kRun) & 1u) != 0;
}

}  // namespace nibble::cuda
