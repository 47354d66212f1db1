// Rows of several matrices that a block goes through, on their way while earlier ones are worked
// on: each thread copies to shared memory what it will read itself, so that no thread waits for
// another one, and registers hold one vector at a time.
#pragma once

#include "tensor/cuda/matrix_loads.cuh"
#include "tensor/cuda/rows.cuh"

namespace nibble::cuda {

// What threads of RowTile `Tile` read of rows of `kMatrices` matrices.
template <class T, class Tile, int kMatrices>
class RowsAhead {
 public:
  static_assert(Tile::kWhole && Tile::kHeld > 0);
  static constexpr int V = kVector<T>, kStages = 3;
  static constexpr std::size_t kBytes =
      sizeof(uint4) * kStages * kMatrices * Tile::kHeld * Tile::kBlock;

  // `memory`: kBytes of the block's; rows of `cols` elements.
  __device__ RowsAhead(uint4* memory, const T* const (&from)[kMatrices], int cols)
      : own_(memory + threadIdx.x), cols_(cols) {
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) from_[m] = from[m];
  }
  // Asks for a row in the place of the one that was read last; it is the last of kStages to come.
  // Past the end, `exists` is false, and nothing comes.
  __device__ void request(std::int64_t row, bool exists) {
    const std::int64_t first = row * cols_;
    for_row_vectors<T, Tile>(exists ? cols_ : 0, [&](int j, int at) {
#pragma unroll
      for (int m = 0; m < kMatrices; ++m)
        copy_async(shared_address(slot(m, j)), from_[m] + first + at, sizeof(uint4));
    });
    commit_copies();
    stage_ = stage_ + 1 == kStages ? 0 : stage_ + 1;
  }
  // Waits for the oldest row that was asked for, which is then read; kStages must be under way.
  __device__ void wait() { wait_for_copies<kStages - 1>(); }
  __device__ Vector<float, V> get(int matrix, int j, int) const {
    const uint4 raw = *slot(matrix, j);
    return widened<T>(*reinterpret_cast<const Vector<T, V>*>(&raw));
  }

 private:
  __device__ uint4* slot(int matrix, int j) const {
    return own_ + ((stage_ * kMatrices + matrix) * Tile::kHeld + j) * Tile::kBlock;
  }
  uint4* own_;
  const T* from_[kMatrices];
  int cols_, stage_ = 0;
};

// Rows that are not whole vectors: they are loaded when they are read.
template <class T, class Tile, int kMatrices>
class RowsInTurn {
 public:
  static constexpr int V = kVector<T>, kStages = 0;
  static constexpr std::size_t kBytes = 0;

  __device__ RowsInTurn(uint4*, const T* const (&from)[kMatrices], int cols) : cols_(cols) {
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) from_[m] = from[m];
  }
  __device__ void request(std::int64_t row, bool exists) {
    for_row_vectors<T, Tile>(exists ? cols_ : 0, [&](int j, int at) {
#pragma unroll
      for (int m = 0; m < kMatrices; ++m)
        held_[m][j] = load_row_part<T, Tile>(from_[m] + row * cols_, at, cols_, T(0.0f));
    });
  }
  __device__ void wait() {}
  __device__ Vector<float, V> get(int matrix, int j, int) const {
    return widened<T>(held_[matrix][j]);
  }

 private:
  const T* from_[kMatrices];
  int cols_;
  Vector<T, V> held_[kMatrices][Tile::kHeld];
};

}  // namespace nibble::cuda
