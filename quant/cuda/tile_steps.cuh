// How kernels walk a matrix of tiles: a thread keeps V columns and goes down the rows, so that it
// finds its tile's column once and its row only when the row changes.
#pragma once

#include "quant/codec.h"
#include "quant/spec.h"
#include "tensor/cuda/rows.cuh"
#include "tensor/cuda/walk.cuh"

namespace nibble::cuda {

// ---- matrices ------------------------------------------------------------------------------

// V elements in as few loads or stores of at most 16 bytes as there are.
template <class T, int V>
inline constexpr int kPiece = V * sizeof(T) > 16 ? 16 / static_cast<int>(sizeof(T)) : V;
template <int V, class T>
__device__ void load_row(const T* p, T (&to)[V]) {
#pragma unroll
  for (int i = 0; i < V; i += kPiece<T, V>) {
    const auto piece = load_vector<T, kPiece<T, V>>(p + i);
#pragma unroll
    for (int j = 0; j < kPiece<T, V>; ++j) to[i + j] = piece[j];
  }
}
template <int V, class T>
__device__ void store_row(T* p, const T (&from)[V]) {
#pragma unroll
  for (int i = 0; i < V; i += kPiece<T, V>) {
    Vector<T, kPiece<T, V>> piece;
#pragma unroll
    for (int j = 0; j < kPiece<T, V>; ++j) piece[j] = from[i + j];
    store_vector(p + i, piece);
  }
}

// Values rounded to T. Of a NaN the bits are the instruction's.
template <int V, class T>
__device__ void store_values(T* p, const float (&values)[V]) {
  if constexpr (V == kVector<T> && sizeof(T) == 2) {
    Vector<float, V> v;
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = values[j];
    store_vector(p, narrowed<T>(v));
  } else {
    T rounded[V];
#pragma unroll
    for (int j = 0; j < V; ++j) rounded[j] = from_float<T>(values[j]);
    store_row<V>(p, rounded);
  }
}

// Columns of a thread where the matrix allows it, else 1.
inline constexpr int kColumns = 8;
inline constexpr unsigned kCodeBlock = 256;
// Rows that a thread loads before it works on the first of them.
inline constexpr int kRowsAhead = 2;

// Kernels count rows and columns in 32 bits.
inline std::uint32_t checked_extent(std::int64_t n) {
  NIBBLE_CHECK(n < std::int64_t{1} << 31, "quantize",
               "got {} rows or columns on a GPU, expected less than 2^31; reshape the matrix", n);
  return static_cast<std::uint32_t>(n);
}

// The launch: blocks of whole chunks of rows, a span of columns each.
struct MatrixWalk {
  std::uint32_t rows, vectors, across, chunk;
  std::int64_t cols;
  dim3 block, grid;

  // `prepares`: blocks begin with work that longer chunks share (tables, a step for each column).
  MatrixWalk(std::int64_t matrix_rows, std::int64_t matrix_cols, int columns, bool prepares,
             int rows_ahead = kRowsAhead)
      : rows(checked_extent(matrix_rows)),
        vectors(checked_extent(matrix_cols) / static_cast<std::uint32_t>(columns)),
        cols(matrix_cols) {
    const auto spans = ceil_div(vectors, rows < 8 ? kCodeBlock : kWarp);
    block.x = static_cast<unsigned>(ceil_div(vectors, spans));
    block.y = kCodeBlock / block.x;
    across = static_cast<std::uint32_t>(ceil_div(vectors, block.x));
    // Chunks grow as long as there are blocks enough for every processor.
    const std::uint32_t least = block.y * static_cast<std::uint32_t>(rows_ahead);
    const std::int64_t blocks = std::int64_t{across} * ceil_div(rows, least);
    chunk = least;
    for (std::int64_t spare = blocks / (multiprocessors() * (prepares ? 3 : 8));
         spare >= 2 && chunk < 16 * least; spare /= 2)
      chunk *= 2;
    grid = dim3(static_cast<unsigned>(across * ceil_div(rows, chunk)));
  }
};

// ---- tiles ---------------------------------------------------------------------------------

// How x / step is formed: Scaling, or the study's bf16 arithmetic.
enum class Quotients : std::uint8_t { Reciprocal, Divide, Bf16 };

// The steps and zero points of a matrix.
struct TileSteps {
  const float* steps;
  const float* zeros;  // may be null
  Divider tile_rows, tile_cols;
  std::uint32_t scale_cols;
  bool whole;  // one tile, whatever shape its elements are taken in
  bool bf16;

  static constexpr std::uint32_t kEverything = 0x7fffffffu;
  TileSteps(const QuantSpec& spec, std::int64_t rows, std::int64_t cols, const Tensor& step,
            const Tensor& zero)
      : steps(step.data<float>()),
        zeros(zero.defined() ? zero.data<float>() : nullptr),
        scale_cols(static_cast<std::uint32_t>(step.size(1))),
        whole(step.numel() == 1),
        bf16(spec.arithmetic == Arithmetic::BF16) {
    const Tile tile = spec.resolve(rows, cols);
    tile_rows = Divider(whole ? kEverything : checked_extent(tile.rows));
    tile_cols = Divider(whole ? kEverything : checked_extent(tile.cols));
  }
};

// Those of one row of tiles for V columns: N = 1, one for all of them, or N = V.
template <int N>
class OwnSteps {
 public:
  // True when the tile's row is a new one: steps and zero points were loaded.
  __device__ bool select(const TileSteps& t, std::uint32_t row, std::uint32_t tile_col) {
    const std::uint32_t tile_row = t.tile_rows.quotient(row);
    if (tile_row == loaded_) return false;
    loaded_ = tile_row;
    load(t, tile_row, tile_col);
    return true;
  }
  __device__ void load(const TileSteps& t, std::uint32_t tile_row, std::uint32_t tile_col) {
    const std::int64_t at = std::int64_t{tile_row} * t.scale_cols + tile_col;
    load_row<N>(t.steps + at, step_);
    if (t.zeros) {
      load_row<N>(t.zeros + at, zero_);
    } else {
#pragma unroll
      for (int j = 0; j < N; ++j) zero_[j] = 0;
    }
  }
  __device__ float step(int j) const { return step_[j % N]; }
  __device__ float zero(int j) const { return zero_[j % N]; }

  // x̂ = (q + zero) · step
  template <int V>
  __device__ void rescale(const TileSteps& t, const float (&q)[V], float (&y)[V]) const {
    if (t.bf16) {
#pragma unroll
      for (int j = 0; j < V; ++j) y[j] = codec::rescale_bf16(q[j], zero(j), step(j));
    } else if (t.zeros) {
#pragma unroll
      for (int j = 0; j < V; ++j) y[j] = codec::rescale(q[j], zero(j), step(j));
    } else {  // adding a zero point of 0 would change −0
#pragma unroll
      for (int j = 0; j < V; ++j) y[j] = codec::mul(q[j], step(j));
    }
  }

 private:
  float step_[N], zero_[N];
  std::uint32_t loaded_ = ~0u;
};

// Quotients by the steps of one row of tiles.
template <Quotients kQuotients, int N>
class Division {
 public:
  template <class Own>
  __device__ void set(const Own& own) {
    easy_ = true;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float step = own.step(j);
      factor_[j] = kQuotients == Quotients::Reciprocal ? codec::multiplier_of(step)
                                                       : codec::divisor_of(step);
      if constexpr (kQuotients == Quotients::Divide) {
        easy_ = easy_ && codec::quotient_divides(factor_[j]);
        inverse_[j] = codec::div(1.0f, factor_[j]);
      }
    }
  }

  // y = x / step − zero; y may be x. kTellsTiny: also quotients near 0 are rounded once.
  template <bool kTellsTiny, class Own, int V>
  __device__ void operator()(const Own& own, const float (&x)[V], float (&y)[V]) const {
    if constexpr (kQuotients == Quotients::Divide && !kTellsTiny) {
      if (easy_ && largest(x) <= 0x1p63f) {
#pragma unroll
        for (int j = 0; j < V; ++j)
          y[j] = codec::sub(codec::quotient(x[j], factor_[j % N], inverse_[j % N]), own.zero(j));
        return;
      }
    }
#pragma unroll
    for (int j = 0; j < V; ++j) {
      if constexpr (kQuotients == Quotients::Reciprocal)
        y[j] = codec::multiply(x[j], factor_[j % N], own.zero(j));
      else if constexpr (kQuotients == Quotients::Divide)
        y[j] = codec::divide(x[j], factor_[j % N], own.zero(j));
      else
        y[j] = codec::divide_bf16(x[j], factor_[j % N], own.zero(j));
    }
  }

 private:
  // NaN is left out.
  template <int V>
  __device__ static float largest(const float (&x)[V]) {
    float most = 0;
#pragma unroll
    for (int j = 0; j < V; ++j) most = fmaxf(most, fabsf(x[j]));
    return most;
  }

  float factor_[N], inverse_[N];
  bool easy_ = false;
};

// ---- choosing a kernel ---------------------------------------------------------------------

// How a matrix is walked: V columns a thread, which have N steps.
template <int V, int N>
struct Walked {
  static constexpr int kWidth = V, kSteps = N;
};
// Calls fn(Walked{}, rows, cols); a matrix of one tile may be taken in another shape. `aligned`:
// every row of every operand starts at a multiple of kColumns elements from an aligned address.
template <class F>
void with_walk(const TileSteps& t, std::int64_t rows, std::int64_t cols, bool aligned, F&& fn) {
  constexpr std::int64_t kLine = std::int64_t{kColumns} * kWarp;
  if (t.whole && rows * cols % kLine == 0) rows = rows * cols / kLine, cols = kLine;
  const std::uint32_t tile = t.tile_cols.divisor();
  if (!aligned || cols % kColumns != 0) return fn(Walked<1, 1>{}, rows, cols);
  if (t.scale_cols == 1 || tile % kColumns == 0) return fn(Walked<kColumns, 1>{}, rows, cols);
  if (tile == 1 && is_aligned(t.steps, 16) && is_aligned(t.zeros, 16))
    return fn(Walked<kColumns, kColumns>{}, rows, cols);
  fn(Walked<1, 1>{}, rows, cols);
}

}  // namespace nibble::cuda
