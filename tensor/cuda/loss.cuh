// What kernels of a cross-entropy share: statistics of a row of logits, and its gradient.
#pragma once

#include "tensor/cuda/rows.cuh"

namespace nibble::cuda::loss {

// Vectors of a row that a thread takes at once: one rescaling of its sum for all of them.
inline constexpr int kAtOnce = 4;

// Calls fn with the tile for rows of `cols`. Rows of the same length have the same order of sums in
// every kernel.
template <bool kWhole, class F>
void with_tile(int cols, F fn) {
  if (cols <= 1024)
    fn(RowTile<1, 0, kWhole>{});
  else if (cols <= 16384)
    fn(RowTile<8, 0, kWhole>{});
  else
    fn(RowTile<16, 0, kWhole>{});
}

// The target of a row of n columns, −1 where there is none: ignored rows, and what check_targets
// reports.
__device__ inline int column_of(std::int32_t target, int n) {
  return target >= 0 && target < n ? target : -1;
}

struct Statistics {
  float lse, others;  // others: the largest logit but the target's
};
// Of a row of n columns; load(first, batch, x) fetches a thread's next vectors, kStep apart from
// column `first` on, −inf past the end. All threads of the block call it, those without a row with
// n = 0. `others` is found if kOthers.
template <class T, class Tile, bool kOthers, class Load>
__device__ Statistics statistics_of(int n, int target, float (&scratch)[3][Tile::kBlockWarps],
                                    Load load) {
  constexpr int V = kVector<T>, kStep = Tile::kThreads * V;
  const bool owns_target = target >= 0 && target / V % Tile::kThreads == Tile::thread();
  ExpSum<T> total;
  float others = -INFINITY;
  int batch = 0;
  for (std::int64_t first = Tile::thread() * V; first < n; first += kAtOnce * kStep, ++batch) {
    Vector<float, V> x[kAtOnce];
    load(first, batch, x);
    total.add(x);
    if constexpr (kOthers) {
      if (!owns_target) continue;
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j)
#pragma unroll
        for (int e = 0; e < V; ++e)
          if (first + j * kStep + e != target) others = max_or_nan(others, x[j][e]);
    }
  }
  if constexpr (kOthers) {
    if (!owns_target) others = total.max;
    others = row_reduce<Tile>(
        others, [](float a, float b) { return max_or_nan(a, b); }, scratch[2]);
  }
  total.template reduce<Tile>(scratch[0], scratch[1]);
  return {total.max + std::log(total.sum), others};
}

// A batch from global memory.
template <class T, class Tile>
__device__ void load_batch(const T* row, int n, std::int64_t first,
                           Vector<float, kVector<T>> (&x)[kAtOnce]) {
  constexpr int V = kVector<T>, kStep = Tile::kThreads * V;
  const T none = from_float<T>(-INFINITY);
  Vector<T, V> loaded[kAtOnce];
#pragma unroll
  for (int j = 0; j < kAtOnce; ++j) {
    const std::int64_t at = first + j * kStep;
#pragma unroll
    for (int e = 0; e < V; ++e) loaded[j][e] = none;
    if (at < n) loaded[j] = load_row_part<T, Tile>(row, static_cast<int>(at), n, none);
  }
#pragma unroll
  for (int j = 0; j < kAtOnce; ++j) x[j] = widened<T>(loaded[j]);
}

// (softmax − onehot) · factor
template <class T>
__device__ float gradient_of(float x, float lse, float factor, bool is_target) {
  const float p = row_exp<T>(x - lse);
  return (is_target ? p - 1.0f : p) * factor;
}

}  // namespace nibble::cuda::loss
