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

// 16 bytes of T as f32, word by word: an operation an element, where halves of words cost two.
template <class T>
__device__ Vector<float, kVector<T>> unpacked(const uint4& raw) {
  const std::uint32_t w[4] = {raw.x, raw.y, raw.z, raw.w};
  Vector<float, kVector<T>> y;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 2) {
      y[2 * i] = __uint_as_float(w[i] << 16);
      y[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
    } else {
      y[i] = __uint_as_float(w[i]);
    }
  }
  return y;
}
template <class T>
__device__ uint4 words_of(const Vector<T, kVector<T>>& x) {
  return *reinterpret_cast<const uint4*>(&x);
}
template <class T>
__device__ Vector<T, kVector<T>> vector_of(const uint4& words) {
  return *reinterpret_cast<const Vector<T, kVector<T>>*>(&words);
}
template <class T, class Tile>
__device__ void store_row_part(T* row, int at, int cols, const Vector<T, kVector<T>>& x) {
  if constexpr (Tile::kWhole)
    store_vector(row + at, x);
  else
    store_row_vector(row + at, cols - at, x);
}

// A Row of a tile that holds it, as words.
template <class T, class Tile>
class HeldRow {
 public:
  static constexpr int V = kVector<T>;
  static_assert(Tile::kHeld > 0);

  __device__ HeldRow(const T* row, int cols) {
    for_row_vectors<T, Tile>(cols, [&](int j, int at) {
      held_[j] = words_of<T>(load_row_part<T, Tile>(row, at, cols, T(0.0f)));
    });
  }
  // Of a row that may be null: then `missing` everywhere.
  __device__ HeldRow(const T* row, int cols, float missing) : HeldRow(row, row ? cols : 0) {
    if (row) return;
    Vector<float, V> all;
#pragma unroll
    for (int e = 0; e < V; ++e) all[e] = missing;
#pragma unroll
    for (uint4& words : held_) words = words_of<T>(narrowed<T>(all));
  }
  // The sum of two rows, rounded to T and written to `sum`, as `add` does.
  __device__ HeldRow(T* sum, const T* a, const T* b, int cols) {
    const HeldRow left(a, cols), right(b, cols);
    for_row_vectors<T, Tile>(cols, [&](int j, int at) {
      const Vector<float, V> x = left.get(j, at), y = right.get(j, at);
      Vector<float, V> z;
#pragma unroll
      for (int e = 0; e < V; ++e) z[e] = x[e] + y[e];
      const Vector<T, V> rounded = narrowed<T>(z);
      held_[j] = words_of<T>(rounded);
      store_row_part<T, Tile>(sum, at, cols, rounded);
    });
  }
  __device__ Vector<float, V> get(int j, int) const {
    uint4 raw = held_[j];
    asm volatile("" : "+r"(raw.x), "+r"(raw.y), "+r"(raw.z), "+r"(raw.w));  // as Row's
    return unpacked<T>(raw);
  }

 private:
  uint4 held_[Tile::kHeld];
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
