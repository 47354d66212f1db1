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

// kAtOnce vectors of a thread as they lie in memory, kStep apart, −inf past the end.
template <class T>
using Batch = Vector<T, kVector<T>>[kAtOnce];

template <class T, class Tile>
__device__ void load_batch(const T* row, int n, std::int64_t first, Batch<T>& to) {
  constexpr int V = kVector<T>, kStep = Tile::kThreads * V;
  const T none = from_float<T>(-INFINITY);
#pragma unroll
  for (int j = 0; j < kAtOnce; ++j) {
    const std::int64_t at = first + j * kStep;
#pragma unroll
    for (int e = 0; e < V; ++e) to[j][e] = none;
    if (at < n) to[j] = load_row_part<T, Tile>(row, static_cast<int>(at), n, none);
  }
}

// The largest number; NaN wins.
template <class T>
__device__ float largest_of(const Batch<T>& x) {
  float most = -INFINITY;
  if constexpr (sizeof(T) == 2) {
    std::uint32_t pairs = 0xff80ff80u;  // −inf
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const uint4 raw = *reinterpret_cast<const uint4*>(&x[j]);
      for (const std::uint32_t two : {raw.x, raw.y, raw.z, raw.w})
        asm("max.NaN.bf16x2 %0, %0, %1;" : "+r"(pairs) : "r"(two));
    }
    most = max_or_nan(std::bit_cast<float>(pairs << 16), std::bit_cast<float>(pairs & 0xffff0000u));
  } else {
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j)
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) most = max_or_nan(most, x[j][e]);
  }
  return most;
}

// ExpSum of batches: one rescaling of the sum for all of one.
template <class T>
struct BatchSum : ExpSum<T> {
  using ExpSum<T>::max, ExpSum<T>::sum;
  // x is widened here alone: eight floats a vector from largest_of on would not fit.
  __device__ void add(const Batch<T>& x, float largest) {
    const float most = max_or_nan(max, largest), at = this->reference(most);
    sum *= row_exp<T>(max - at);
    max = most;
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const Vector<float, kVector<T>> wide = widened<T>(x[j]);
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) sum += row_exp<T>(wide[e] - at);
    }
  }
};

struct Statistics {
  float lse, others;  // others: the largest logit but the target's
};
// Of a row of n columns; load(first, x) fetches a thread's next batch, from column `first` on. All
// threads of the block call it, those without a row with n = 0. `others` is found if kOthers.
template <class T, class Tile, bool kOthers, class Load>
__device__ Statistics statistics_of(int n, int target, float (&scratch)[3][Tile::kBlockWarps],
                                    Load load) {
  constexpr int V = kVector<T>, kStep = Tile::kThreads * V;
  const bool owns_target = target >= 0 && target / V % Tile::kThreads == Tile::thread();
  BatchSum<T> total;
  float others = -INFINITY;
  for (std::int64_t first = Tile::thread() * V; first < n; first += kAtOnce * kStep) {
    Batch<T> x;
    load(first, x);
    float most = largest_of<T>(x);
    total.add(x, most);
    if constexpr (kOthers) {
      if (owns_target && target >= first && target < first + kAtOnce * kStep) {
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j)
#pragma unroll
          for (int e = 0; e < V; ++e)
            if (first + j * kStep + e == target) x[j][e] = from_float<T>(-INFINITY);
        most = largest_of<T>(x);
      }
      others = max_or_nan(others, most);
    }
  }
  if constexpr (kOthers)
    others = row_reduce<Tile>(
        others, [](float a, float b) { return max_or_nan(a, b); }, scratch[2]);
  total.template reduce<Tile>(scratch[0], scratch[1]);
  return {total.max + std::log(total.sum), others};
}

// A row's (softmax − onehot) · factor. Of bf16, e^(x − lse) · |factor| is one power of two whose
// exponent takes one fma: off by 2^-17 of itself at most while |lse| < 64 and |factor| > 2^-24, by
// 2^-13 up to kMostFolded; other rows take the differences themselves.
template <class T>
class Gradient {
 public:
  static constexpr float kMostFolded = 2048;

  __device__ Gradient(float lse, float factor)
      : lse_(lse), factor_(factor), folds_(sizeof(T) == 2 && std::fabs(lse) <= kMostFolded) {
    if constexpr (sizeof(T) == 2) shift_ = std::fma(-lse, kLog2E, std::log2(std::fabs(factor)));
  }
  __device__ float at_target(float x) const { return (row_exp<T>(x - lse_) - 1.0f) * factor_; }
  // Another column's.
  __device__ float operator()(float x) const {
    Vector<float, 1> y{{x}};
    apply(y);
    return y[0];
  }
  // One branch for all of them.
  template <int N>
  __device__ void apply(Vector<float, N>& x) const {
    if (folds_) {
      const float sign = factor_ < 0 ? -1.0f : 1.0f;
#pragma unroll
      for (int e = 0; e < N; ++e) x[e] = folded(x[e], shift_) * sign;
    } else {
#pragma unroll
      for (int e = 0; e < N; ++e) x[e] = row_exp<T>(x[e] - lse_) * factor_;
    }
  }

  __device__ bool folds() const { return folds_; }
  __device__ float shift() const { return shift_; }
  // Its magnitude, where it folds.
  __device__ static float folded(float x, float shift) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(std::fma(x, kLog2E, shift)));
    return y;
  }

 private:
  static constexpr float kLog2E = 1.44269504f;
  float lse_, factor_, shift_ = 0;
  bool folds_;
};

}  // namespace nibble::cuda::loss
