// A row of a norm in registers, as all kernels that make norms compute it: the order of its sums
// and its roundings are those of layer_norm and rms_norm.
#pragma once

#include "tensor/cuda/rows.cuh"

namespace nibble::cuda {

// Rows of more columns than this are not held in registers (with_row_tile).
template <class T>
inline constexpr std::int64_t kHeldColumns = 1024 * kVector<T>;

// β of a norm without one: x + −0 is x, −0 included.
inline constexpr float kNoShift = -0.0f;

__device__ inline float norm_value(float x, float mean, float rstd, float gamma, float beta) {
  return fmaf((x - mean) * rstd, gamma, beta);
}

// The sum of two rows in registers, like a Row; it is rounded to T and written to `sum`, as `add`
// does.
template <class T, class Tile>
class SummedRow {
 public:
  static constexpr int V = kVector<T>;
  static_assert(Tile::kHeld > 0);

  __device__ SummedRow(T* sum, const T* a, const T* b, int cols) {
    const Row<T, Tile> left(a, cols), right(b, cols);
    for_row_vectors<T, Tile>(cols, [&](int j, int at) {
      const Vector<float, V> x = left.get(j, at), y = right.get(j, at);
      Vector<float, V> z;
#pragma unroll
      for (int e = 0; e < V; ++e) z[e] = x[e] + y[e];
      held_[j] = narrowed<T>(z);
      if constexpr (Tile::kWhole)
        store_vector(sum + at, held_[j]);
      else
        store_row_vector(sum + at, cols - at, held_[j]);
    });
  }
  __device__ Vector<float, V> get(int j, int) const {
    uint4 raw = *reinterpret_cast<const uint4*>(&held_[j]);
    asm volatile("" : "+r"(raw.x), "+r"(raw.y), "+r"(raw.z), "+r"(raw.w));  // as Row's
    return widened<T>(*reinterpret_cast<const Vector<T, V>*>(&raw));
  }

 private:
  Vector<T, V> held_[Tile::kHeld];
};

struct NormStatistics {
  float mean, rstd;
};
// Of a row of `cols` elements, of which `n` are there (0: no row). All threads of the block call
// it; `scratch` is theirs until the block's second barrier from here.
template <bool kCentred, class T, class Tile, class R>
__device__ NormStatistics norm_statistics(const R& row, int n, int cols, float epsilon,
                                          float (&scratch)[2][Tile::kBlockWarps]) {
  const auto width = static_cast<float>(cols);
  const auto each = [&](auto&& f) {
    for_row_vectors<T, Tile>(n, [&](int j, int at) {
      const auto x = row.get(j, at);
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) f(x[e], at + e);
    });
  };
  float mu = 0, squares = 0;
  if constexpr (kCentred) {
    each([&](float v, int) { mu += v; });
    mu = row_sum<Tile>(mu, scratch[0]) / width;
  }
  each([&](float v, int column) {
    const float d = Tile::kWhole || column < n ? v - mu : 0.0f;
    squares = fmaf(d, d, squares);
  });
  return {mu, 1.0f / sqrtf(row_sum<Tile>(squares, scratch[1]) / width + epsilon)};
}

}  // namespace nibble::cuda
