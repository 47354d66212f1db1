// Rows as kernels see them: 16-byte loads from any element on, a row's vectors in registers (or
// read again in every sweep when it is long), and reductions over the threads of a row. Which
// thread reads which element follows from the row's length alone, never from an address: no bit
// depends on where a tensor lies.
#pragma once

#include <climits>

#include "tensor/cuda/common.cuh"
#include "tensor/scalar_math.h"

namespace nibble::cuda {

namespace detail {

// Bytes [shift, shift + 16) of the 32 bytes lo, hi; shift is even and below 16.
__device__ inline uint4 shifted(uint4 lo, uint4 hi, unsigned shift) {
  unsigned w[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
#pragma unroll
  for (int i = 0; i < 6; ++i) w[i] = shift & 8 ? w[i + 2] : w[i];
#pragma unroll
  for (int i = 0; i < 5; ++i) w[i] = shift & 4 ? w[i + 1] : w[i];
  const unsigned bits = shift % 4 * 8;
  return {__funnelshift_r(w[0], w[1], bits), __funnelshift_r(w[1], w[2], bits),
          __funnelshift_r(w[2], w[3], bits), __funnelshift_r(w[3], w[4], bits)};
}

}  // namespace detail

// The vector p[0 … V), of which the first `valid` ≥ 1 elements exist; the others become `fill`. Any
// alignment: only aligned 16-byte blocks with an existing element are touched, and blocks of the
// allocator never end inside one.
template <class T>
__device__ Vector<T, kVector<T>> load_row_vector(const T* p, int valid, T fill) {
  constexpr int V = kVector<T>;
  const auto shift = static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(p) % 16);
  const auto* block = reinterpret_cast<const uint4*>(reinterpret_cast<const char*>(p) - shift);
  uint4 raw = block[0];
  if (shift != 0) {
    const unsigned bytes = static_cast<unsigned>(valid < V ? valid : V) * sizeof(T);
    raw = detail::shifted(raw, shift + bytes > 16 ? block[1] : raw, shift);
  }
  Vector<T, V> x = *reinterpret_cast<const Vector<T, V>*>(&raw);
  if (valid < V) {
#pragma unroll
    for (int e = 0; e < V; ++e)
      if (e >= valid) x[e] = fill;
  }
  return x;
}
// How many elements of the vector at `at` exist in n.
template <class T>
__device__ int valid_at(std::int64_t n, std::int64_t at) {
  return n - at < kVector<T> ? static_cast<int>(n - at) : kVector<T>;
}
template <class T>
__device__ void store_row_vector(T* p, int valid, const Vector<T, kVector<T>>& x) {
  constexpr int V = kVector<T>;
  if (valid >= V && reinterpret_cast<std::uintptr_t>(p) % 16 == 0) {
    store_vector(p, x);
    return;
  }
#pragma unroll
  for (int e = 0; e < V; ++e)
    if (e < valid) p[e] = x[e];
}

// The elements as f32.
template <class T>
__device__ Vector<float, kVector<T>> widened(const Vector<T, kVector<T>>& x) {
  Vector<float, kVector<T>> y;
#pragma unroll
  for (int e = 0; e < kVector<T>; ++e) y[e] = to_float(x[e]);
  return y;
}

// And back, rounded to T. The instruction's bits are those of bfloat16's constructor for every
// number and for the NaN that arithmetic gives here, at a tenth of its cost.
template <class T>
__device__ Vector<T, kVector<T>> narrowed(const Vector<float, kVector<T>>& x) {
  if constexpr (sizeof(T) == 4) {
    return x;
  } else {
    unsigned w[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(w[i]) : "f"(x[2 * i + 1]), "f"(x[2 * i]));
    const uint4 raw{w[0], w[1], w[2], w[3]};
    return *reinterpret_cast<const Vector<T, kVector<T>>*>(&raw);
  }
}

// `warps` warps read a row; each thread holds `held` vectors of it, or none (0: rows of any
// length). A block of kBlock threads takes kRows rows at once. `whole`: rows are whole vectors at
// aligned addresses, so that a thread's loads follow each other without a branch.
template <int warps, int held, bool whole = false>
struct RowTile {
  static constexpr int kWarps = warps, kHeld = held;
  static constexpr bool kWhole = whole;
  static constexpr int kThreads = 32 * warps;
  static constexpr int kBlock = warps < 8 ? 256 : kThreads;
  static constexpr int kRows = kBlock / kThreads;
  static constexpr int kBlockWarps = kBlock / 32;

  __device__ static std::int64_t row() {
    return blockIdx.x * std::int64_t{kRows} + threadIdx.x / kThreads;
  }
  __device__ static int thread() { return static_cast<int>(threadIdx.x % kThreads); }
  static unsigned blocks(std::int64_t rows) { return static_cast<unsigned>(ceil_div(rows, kRows)); }
};

// Columns of a row are counted in 32 bits, rows in 64.
inline int row_length(const char* op, const Tensor& x) {
  NIBBLE_CHECK(x.cols() <= INT_MAX, op, "got {}, expected rows below 2^31 elements", describe(x));
  return static_cast<int>(x.cols());
}

// Whether rows of `cols` at these addresses are whole vectors; null is no operand.
template <class T, class... P>
bool are_whole_rows(int cols, const P*... p) {
  return cols % kVector<T> == 0 && (is_aligned(p, 16) && ...);
}

template <class T, bool kWhole, class F>
void with_row_tile_of(int cols, F f) {
  const std::int64_t vectors = ceil_div(cols, kVector<T>);
  if (vectors <= 96)
    f(RowTile<1, 3, kWhole>{});
  else if (vectors <= 128)
    f(RowTile<2, 2, kWhole>{});
  else if (vectors <= 256)
    f(RowTile<4, 2, kWhole>{});
  else if (vectors <= 512)
    f(RowTile<8, 2, kWhole>{});
  else if (vectors <= 1024)
    f(RowTile<16, 2, kWhole>{});
  else
    f(RowTile<16, 0, kWhole>{});
}
// f(RowTile<…>{}) with the smallest tile that holds rows of `cols`: 8192 bf16 or 4096 f32 at most.
template <class T, class F>
void with_row_tile(int cols, bool whole, F f) {
  whole ? with_row_tile_of<T, true>(cols, f) : with_row_tile_of<T, false>(cols, f);
}

// f(j, at) for this thread's vectors of a row of `cols` elements: the j-th starts at column `at`.
template <class T, class Tile, class F>
__device__ void for_row_vectors(int cols, F f) {
  constexpr int kStep = Tile::kThreads * kVector<T>;
  int at = Tile::thread() * kVector<T>;
  if constexpr (Tile::kHeld > 0) {
#pragma unroll
    for (int j = 0; j < Tile::kHeld; ++j, at += kStep)
      if (at < cols) f(j, at);
  } else {
    for (; at<cols; at = at> INT_MAX - kStep ? cols : at + kStep) f(0, at);
  }
}

// The vector at column `at` of a row of `cols` elements.
template <class T, class Tile>
__device__ Vector<T, kVector<T>> load_row_part(const T* row, int at, int cols, T fill) {
  if constexpr (Tile::kWhole)
    return load_vector<T>(row + at);
  else
    return load_row_vector(row + at, cols - at, fill);
}

// This thread's part of a row of `cols` elements (0: no row). Elements past its end are `fill`.
template <class T, class Tile>
class Row {
 public:
  static constexpr int V = kVector<T>;

  __device__ Row(const T* row, int cols, T fill = T(0.0f)) : row_(row), cols_(cols), fill_(fill) {
    if constexpr (Tile::kHeld > 0)
      for_row_vectors<T, Tile>(
          cols, [&](int j, int at) { held_[j] = load_row_part<T, Tile>(row, at, cols, fill); });
  }
  __device__ Vector<float, V> get(int j, int at) const {
    if constexpr (Tile::kHeld > 0) {
      // Opaque, or the compiler would hold eight bf16 as eight f32 from the first sweep to the
      // last.
      uint4 raw = *reinterpret_cast<const uint4*>(&held_[j]);
      asm volatile("" : "+r"(raw.x), "+r"(raw.y), "+r"(raw.z), "+r"(raw.w));
      return widened<T>(*reinterpret_cast<const Vector<T, V>*>(&raw));
    } else {
      return widened<T>(load_row_part<T, Tile>(row_, at, cols_, fill_));
    }
  }
  // f(x, column) for every element, those past the end included.
  template <class F>
  __device__ void each(F f) const {
    for_row_vectors<T, Tile>(cols_, [&](int j, int at) {
      const Vector<float, V> x = get(j, at);
#pragma unroll
      for (int e = 0; e < V; ++e) f(x[e], at + e);
    });
  }

 private:
  const T* row_;
  int cols_;
  T fill_;
  Vector<T, V> held_[Tile::kHeld > 0 ? Tile::kHeld : 1];
};

// Writes to[c] = f(a[c]…) for the columns of a row.
template <class T, class Tile, class F, class... R>
__device__ void write_row(T* to, int cols, F f, const R&... rows) {
  constexpr int V = kVector<T>;
  for_row_vectors<T, Tile>(cols, [&](int j, int at) {
    const auto apply = [&](const auto&... x) {
      Vector<float, V> y;
#pragma unroll
      for (int e = 0; e < V; ++e) y[e] = f(x[e]...);
      return narrowed<T>(y);
    };
    if constexpr (Tile::kWhole)
      store_vector(to + at, apply(rows.get(j, at)...));
    else
      store_row_vector(to + at, cols - at, apply(rows.get(j, at)...));
  });
}

// Folds x over the threads of each row of the block, in a fixed order; all of them get it. All
// threads of the block call it; `scratch` holds one value a warp and belongs to this call until the
// block's next barrier.
template <class Tile, class F>
__device__ float row_reduce(float x, F f, float* scratch) {
  x = warp_reduce(x, f);
  if constexpr (Tile::kWarps > 1) {
    const unsigned warp = threadIdx.x / kWarp;
    if (threadIdx.x % kWarp == 0) scratch[warp] = x;
    __syncthreads();
    const float* first = scratch + warp / Tile::kWarps * Tile::kWarps;
    x = first[0];
#pragma unroll
    for (int w = 1; w < Tile::kWarps; ++w) x = f(x, first[w]);
  }
  return x;
}
template <class Tile>
__device__ float row_sum(float x, float* scratch) {
  return row_reduce<Tile>(
      x, [](float a, float b) { return a + b; }, scratch);
}

// The greater one; NaN wins. One instruction, where max_keeping_nan takes three; of two zeros it
// gives +0.
__device__ inline float max_or_nan(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

// e^x for rows of T: the shared function for f32; 2^(x·log2 e) in hardware where a bf16 result, or
// a sum of terms that were bf16, hides its error of about (2 + |x|)·2^-23.
template <class T>
__device__ float row_exp(float x) {
  if constexpr (sizeof(T) == 4) {
    return scalar::exp(x);
  } else {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504f));
    return y;
  }
}

// max and Σ e^(x − max) in one pass. While only −inf was seen the sum is 0.
template <class T>
struct ExpSum {
  float max = -INFINITY, sum = 0;

  __device__ static float reference(float m) { return m == -INFINITY ? 0.0f : m; }
  // Of N vectors at once: one rescaling for all of them.
  template <int N>
  __device__ void add(const Vector<float, kVector<T>> (&x)[N]) {
    float m = max;
#pragma unroll
    for (int j = 0; j < N; ++j)
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) m = max_or_nan(m, x[j][e]);
    const float at = reference(m);
    sum *= row_exp<T>(max - at);
    max = m;
#pragma unroll
    for (int j = 0; j < N; ++j)
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) sum += row_exp<T>(x[j][e] - at);
  }
  // Over the threads of a row, as row_reduce.
  template <class Tile>
  __device__ void reduce(float* for_max, float* for_sum) {
    const float m = row_reduce<Tile>(
        max, [](float a, float b) { return max_or_nan(a, b); }, for_max);
    sum = row_sum<Tile>(sum * row_exp<T>(max - reference(m)), for_sum);
    max = m;
  }
};

}  // namespace nibble::cuda
