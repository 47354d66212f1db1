// Sums of rows into a table by index, shared by rows as they are and rows with weights. A stable
// sort groups the rows of a destination, so that its sum runs in ascending order, starts from what
// is there and rounds once, like the CPU's.
#pragma once

#include "tensor/cuda/index_sort.cuh"

namespace nibble::cuda {

inline constexpr unsigned kIndexBlock = 256;

__device__ inline bool in_range(std::int32_t index, std::int64_t extent) {
  return index >= 0 && index < extent;
}

// Rows [n, cols] as they are.
template <class T>
struct PlainRows {
  using Element = T;
  static constexpr bool kWeighted = false;
  const T* x;
  std::int64_t cols;

  __device__ float factor(std::int32_t /*row*/) const { return 1; }
  __device__ float add(float total, T value, float /*factor*/) const {
    return total + to_float(value);
  }
};
// Each times its weight, which takes in the step of codes where there are `steps`.
template <class T>
struct WeightedRows {
  using Element = T;
  static constexpr bool kWeighted = true;
  const T* x;
  std::int64_t cols;
  const float *weight, *steps;

  __device__ float factor(std::int32_t row) const { return factor(row, row); }
  __device__ float factor(std::int64_t of, std::int32_t row) const {
    return steps ? __fmul_rn(weight[of], steps[row]) : weight[of];
  }
  __device__ float add(float total, T value, float factor) const {
    return __fadd_rn(total, __fmul_rn(to_float(value), factor));
  }
};

// A row that a lane knows, and its factor; `count` lanes from the first on do.
struct Run {
  std::int32_t source;
  float factor;
  int count;
};

template <class Rows>
__device__ float factor_of(const Run& run, int lane) {
  if constexpr (Rows::kWeighted) return __shfl_sync(kFullMask, run.factor, lane);
  return 1;
}

// Rows that are on their way at once; with 128 registers eight elements of each are, with fewer the
// compiler sums after every second load.
template <int V>
inline constexpr int kAtOnce = V > 2 ? 16 : 32;
template <int V>
inline constexpr int kIndexBlocks = V > 2 ? 2 : 0;  // of a multiprocessor, 0: as many as fit

// Adds rows [first, last) of those that the lanes know, in order: all loads of N rows first, then
// their sums.
template <int N, int V, class Rows>
__device__ void add_rows(float (&total)[V], const Rows& rows, std::int64_t column, const Run& run,
                         int first, int last) {
  while (first + N <= last) {
    Vector<typename Rows::Element, V> v[N];
#pragma unroll
    for (int k = 0; k < N; ++k)
      v[k] = load_vector<typename Rows::Element, V>(
          rows.x + __shfl_sync(kFullMask, run.source, first + k) * rows.cols + column);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float factor = factor_of<Rows>(run, first + k);
#pragma unroll
      for (int j = 0; j < V; ++j) total[j] = rows.add(total[j], v[k][j], factor);
    }
    first += N;
  }
  if constexpr (N > 1) add_rows<N / 2>(total, rows, column, run, first, last);
}

// Which of 32 sorted positions from `at` on belong to `row`.
template <class Rows>
__device__ Run run_of(std::int32_t row, const Rows& rows, const SortedIndices::View& sorted,
                      std::int64_t at) {
  const std::int64_t k = at + threadIdx.x % kWarp;
  const bool same = k < sorted.n && sorted.keys[k] == row;
  const std::int32_t from = same ? sorted.source[k] : 0;
  return {from, rows.factor(from), __popc(__ballot_sync(kFullMask, same))};
}

// The rest of a row's run, from position `at` on: the next 32 positions are looked up while the
// rows of these are on their way.
template <int V, class Rows>
__device__ void add_rest(float (&total)[V], const Rows& rows, std::int64_t column, std::int32_t row,
                         const SortedIndices::View& sorted, std::int64_t at) {
  constexpr int N = kAtOnce<V>;
  Run run = run_of(row, rows, sorted, at);
  while (run.count == kWarp) {
    Vector<typename Rows::Element, V> v[N];
#pragma unroll
    for (int k = 0; k < N; ++k)
      v[k] = load_vector<typename Rows::Element, V>(
          rows.x + __shfl_sync(kFullMask, run.source, k) * rows.cols + column);
    at += kWarp;
    const Run now = run;
    run = run_of(row, rows, sorted, at);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float factor = factor_of<Rows>(now, k);
#pragma unroll
      for (int j = 0; j < V; ++j) total[j] = rows.add(total[j], v[k][j], factor);
    }
    add_rows<N>(total, rows, column, now, N, kWarp);
  }
  add_rows<N>(total, rows, column, run, 0, run.count);
}

// A warp has 32 sorted positions and 32·V columns: it finishes every row that starts among its
// positions, those of no row of the table left out.
template <int V, class D, class Rows>
__global__ void __launch_bounds__(kIndexBlock, kIndexBlocks<V>)
    add_kernel(D* y, const Rows rows, const SortedIndices::View sorted, std::int64_t table,
               const std::int32_t* bad) {
  if (bad && *bad != 0) return;
  const std::int64_t cols = rows.cols, n = sorted.n, tiles = ceil_div(cols, kWarp * V);
  const std::int64_t task = std::int64_t{blockIdx.x} * (kIndexBlock / kWarp) + threadIdx.x / kWarp;
  const std::int64_t begin = task / tiles * kWarp;
  if (begin >= n) return;
  const unsigned lane = threadIdx.x % kWarp;
  std::int64_t column = (task % tiles * kWarp + lane) * V;
  const bool active = column < cols;  // others shuffle along, on column 0
  if (!active) column = 0;

  const std::int64_t mine = begin + lane;
  const std::int32_t key = mine < n ? sorted.keys[mine] : -1;
  const std::int32_t source = mine < n ? sorted.source[mine] : 0;
  const Run known{source, rows.factor(source), 0};
  const bool starts = mine < n && (mine == 0 || sorted.keys[mine - 1] != key);
  const int here = n - begin < kWarp ? static_cast<int>(n - begin) : static_cast<int>(kWarp);
  for (unsigned heads = __ballot_sync(kFullMask, starts); heads != 0; heads &= heads - 1) {
    const int first = __ffs(static_cast<int>(heads)) - 1;
    const unsigned later = heads & (heads - 1);
    const int last = later != 0 ? __ffs(static_cast<int>(later)) - 1 : here;
    const std::int32_t row = __shfl_sync(kFullMask, key, first);
    if (!in_range(row, table)) continue;
    D* const to = y + row * cols + column;
    float total[V];
    const Vector<D, V> old = load_vector<D, V>(to);
#pragma unroll
    for (int j = 0; j < V; ++j) total[j] = to_float(old[j]);
    add_rows<kAtOnce<V>>(total, rows, column, known, first, last);
    if (last == kWarp) add_rest(total, rows, column, row, sorted, begin + kWarp);
    if (active) {
      Vector<D, V> sum;
#pragma unroll
      for (int j = 0; j < V; ++j) sum[j] = from_float<D>(total[j]);
      store_vector<D, V>(to, sum);
    }
  }
}

// y [table, cols] += the rows at their sorted indices; nothing where *bad is set (null: never).
template <int V, class D, class Rows>
void add_sorted(D* y, const Rows& rows, const SortedIndices& sorted, std::int64_t n,
                std::int64_t table, const std::int32_t* bad) {
  const std::int64_t tasks = ceil_div(n, kWarp) * ceil_div(rows.cols, kWarp * V);
  launch(add_kernel<V, D, Rows>, static_cast<unsigned>(ceil_div(tasks, kIndexBlock / kWarp)),
         kIndexBlock, 0, y, rows, SortedIndices::View{sorted.keys, sorted.source, n}, table, bad);
}

}  // namespace nibble::cuda
