// Rows of several matrices that a block goes through, on their way while earlier ones are worked
// on: each thread copies to shared memory what it will read itself, so that no thread waits for
// another one, and registers hold one vector at a time.
#pragma once

#include "tensor/cuda/matrix_loads.cuh"
#include "tensor/cuda/norm_row.cuh"

namespace nibble::cuda {

// What threads of RowTile `Tile` read of rows of `kMatrices` matrices: every Tile::kRows-th row
// from the one that they begin with.
template <class T, class Tile, int kMatrices>
class RowsAhead {
 public:
  static_assert(Tile::kWhole && Tile::kHeld > 0);
  static constexpr int V = kVector<T>, kStages = 3;
  static constexpr std::size_t kBytes =
      sizeof(uint4) * kStages * kMatrices * Tile::kHeld * Tile::kBlock;

  // `memory`: kBytes of the block's; rows of `cols` elements.
  __device__ RowsAhead(uint4* memory, const T* const (&from)[kMatrices], std::int64_t row, int cols)
      : begin_(shared_address(memory + threadIdx.x)),
        stage_(begin_),
        cols_(cols),
        step_(std::int64_t{cols} * Tile::kRows) {
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) from_[m] = from[m] + row * cols + Tile::thread() * V;
  }
  // Asks for the next row, in the place of the one that was read last; it is the last of kStages to
  // come. `exists` is false past the end, and nothing comes.
  __device__ void request(bool exists) {
    for_row_vectors<T, Tile>(exists ? cols_ : 0, [&](int j, int) {
#pragma unroll
      for (int m = 0; m < kMatrices; ++m)
        copy_async(stage_ + slot(m, j), from_[m] + j * Tile::kThreads * V, sizeof(uint4));
    });
    commit_copies();
#pragma unroll
    for (const T*& from : from_) from += step_;
    stage_ = stage_ == begin_ + (kStages - 1) * slot(kMatrices, 0) ? begin_
                                                                   : stage_ + slot(kMatrices, 0);
  }
  // Waits for the oldest row that was asked for, which is then read; kStages must be under way.
  __device__ void wait() { wait_for_copies<kStages - 1>(); }
  __device__ Vector<float, V> get(int matrix, int j, int) const {
    uint4 raw;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(raw.x), "=r"(raw.y), "=r"(raw.z), "=r"(raw.w)
                 : "r"(stage_ + slot(matrix, j)));
    return unpacked<T>(raw);
  }

 private:
  // Bytes from a stage's begin.
  __device__ static constexpr std::uint32_t slot(int matrix, int j) {
    return static_cast<std::uint32_t>(sizeof(uint4)) * (matrix * Tile::kHeld + j) * Tile::kBlock;
  }
  std::uint32_t begin_, stage_;
  const T* from_[kMatrices];
  int cols_;
  std::int64_t step_;
};

// Rows that are not whole vectors: they are loaded when they are read.
template <class T, class Tile, int kMatrices>
class RowsInTurn {
 public:
  static constexpr int V = kVector<T>, kStages = 0;
  static constexpr std::size_t kBytes = 0;

  __device__ RowsInTurn(uint4*, const T* const (&from)[kMatrices], std::int64_t row, int cols)
      : cols_(cols) {
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) from_[m] = from[m] + row * cols;
  }
  __device__ void request(bool exists) {
    for_row_vectors<T, Tile>(exists ? cols_ : 0, [&](int j, int at) {
#pragma unroll
      for (int m = 0; m < kMatrices; ++m)
        held_[m][j] = words_of<T>(load_row_part<T, Tile>(from_[m], at, cols_, T(0.0f)));
    });
#pragma unroll
    for (const T*& from : from_) from += std::int64_t{cols_} * Tile::kRows;
  }
  __device__ void wait() {}
  __device__ Vector<float, V> get(int matrix, int j, int) const {
    return unpacked<T>(held_[matrix][j]);
  }

 private:
  const T* from_[kMatrices];
  int cols_;
  uint4 held_[kMatrices][Tile::kHeld];
};

}  // namespace nibble::cuda
