// Rows of a table by index. index_select and take_along_last move each element once each way.
// index_add reads x and reads and writes the touched rows once: 50 MB at 32 k tokens x 768 in bf16;
// before it a stable sort groups indices by row, so that a row's sum runs in ascending order,
// starts from the row and rounds once, like the CPU's. A row's chain of additions is serial: one
// that receives all of 32 k indices takes about a load's latency for each 32 of them.
#include "tensor/cuda/index_sort.cuh"
#include "tensor/cuda/units.cuh"
#include "tensor/kernels.h"

namespace nibble::cuda {
namespace {

constexpr unsigned kBlock = 256;
constexpr unsigned kWarps = kBlock / kWarp;

__device__ bool in_range(std::int32_t index, std::int64_t extent) {
  return index >= 0 && index < extent;
}

// A warp copies a row of `units` words.
template <class Unit>
__global__ void __launch_bounds__(kBlock)
    select_kernel(Unit* __restrict__ y, const Unit* __restrict__ x,
                  const std::int32_t* __restrict__ index, std::int64_t n, std::int64_t rows,
                  std::int64_t units, Fault* fault) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (i >= n) return;
  const std::int64_t lane = threadIdx.x % kWarp;
  const std::int32_t row = index[i];
  if (!in_range(row, rows)) {
    if (lane == 0) report_fault(fault, Fault::kIndexSelect, i, row, rows);
    return;
  }
  const Unit* from = x + row * units;
  Unit* to = y + i * units;
#pragma unroll 4
  for (std::int64_t u = lane; u < units; u += kWarp) to[u] = from[u];
}

__global__ void __launch_bounds__(kBlock)
    check_kernel(std::int32_t* bad, const std::int32_t* index, std::int64_t n, std::int64_t rows,
                 Fault* fault) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (i >= n || in_range(index[i], rows)) return;
  *bad = 1;
  report_fault(fault, Fault::kIndexAdd, i, index[i], rows);
}

// Adds rows [first, last) of those whose numbers lie in the lanes' `source`, in order: all loads of
// N rows first, then their sums.
template <int N, int V, class T>
__device__ void add_rows(float (&total)[V], const T* x, std::int64_t cols, std::int32_t source,
                         int first, int last) {
  while (first + N <= last) {
    Vector<T, V> v[N];
#pragma unroll
    for (int k = 0; k < N; ++k)
      v[k] = load_vector<T, V>(x + __shfl_sync(kFullMask, source, first + k) * cols);
#pragma unroll
    for (int k = 0; k < N; ++k)
#pragma unroll
      for (int j = 0; j < V; ++j) total[j] += to_float(v[k][j]);
    first += N;
  }
  if constexpr (N > 1) add_rows<N / 2>(total, x, cols, source, first, last);
}

// Which of 32 sorted positions from `at` on belong to `row`: the first `count`, by `source`.
struct Run {
  std::int32_t source;
  int count;
};
__device__ inline Run run_of(std::int32_t row, const std::int32_t* keys, const std::int32_t* source,
                             std::int64_t at, std::int64_t n) {
  const std::int64_t k = at + threadIdx.x % kWarp;
  const std::int32_t from = k < n ? source[k] : 0;
  const bool same = k < n && keys[k] == row;
  return {same ? from : 0, __popc(__ballot_sync(kFullMask, same))};
}

// The rest of a row's run, from position `at` on: the next 32 positions are looked up while the
// rows of these are on their way.
template <int V, class T>
__device__ void add_rest(float (&total)[V], const T* x, std::int64_t cols, std::int32_t row,
                         const std::int32_t* keys, const std::int32_t* source, std::int64_t at,
                         std::int64_t n) {
  Run run = run_of(row, keys, source, at, n);
  while (run.count == kWarp) {
    Vector<T, V> v[kWarp];
#pragma unroll
    for (int k = 0; k < static_cast<int>(kWarp); ++k)
      v[k] = load_vector<T, V>(x + __shfl_sync(kFullMask, run.source, k) * cols);
    at += kWarp;
    run = run_of(row, keys, source, at, n);
#pragma unroll
    for (int k = 0; k < static_cast<int>(kWarp); ++k)
#pragma unroll
      for (int j = 0; j < V; ++j) total[j] += to_float(v[k][j]);
  }
  add_rows<kWarp / 2>(total, x, cols, run.source, 0, run.count);
}

// A warp has 32 sorted positions and 32·V columns: it finishes every row that starts among its
// positions.
template <int V, class D, class T>
__global__ void __launch_bounds__(kBlock)
    add_kernel(D* y, const T* x, const std::int32_t* keys, const std::int32_t* source,
               std::int64_t n, std::int64_t cols, const std::int32_t* bad) {
  if (*bad != 0) return;
  const std::int64_t tiles = ceil_div(cols, kWarp * V);
  const std::int64_t task = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  const std::int64_t begin = task / tiles * kWarp;
  if (begin >= n) return;
  const unsigned lane = threadIdx.x % kWarp;
  const std::int64_t column = (task % tiles * kWarp + lane) * V;
  const bool active = column < cols;  // others shuffle along, on column 0
  const T* const from = x + (active ? column : 0);

  const std::int64_t mine = begin + lane;
  const std::int32_t key = mine < n ? keys[mine] : 0, my_source = mine < n ? source[mine] : 0;
  const bool starts = mine < n && (mine == 0 || keys[mine - 1] != key);
  const int here = n - begin < kWarp ? static_cast<int>(n - begin) : static_cast<int>(kWarp);
  for (unsigned heads = __ballot_sync(kFullMask, starts); heads != 0; heads &= heads - 1) {
    const int first = __ffs(static_cast<int>(heads)) - 1;
    const unsigned later = heads & (heads - 1);
    const int last = later != 0 ? __ffs(static_cast<int>(later)) - 1 : here;
    const std::int32_t row = __shfl_sync(kFullMask, key, first);
    D* const to = y + row * cols + (active ? column : 0);
    float total[V];
    const Vector<D, V> old = load_vector<D, V>(to);
#pragma unroll
    for (int j = 0; j < V; ++j) total[j] = to_float(old[j]);
    add_rows<kWarp>(total, from, cols, my_source, first, last);
    if (last == kWarp) add_rest(total, from, cols, row, keys, source, begin + kWarp, n);
    if (active) {
      Vector<D, V> sum;
#pragma unroll
      for (int j = 0; j < V; ++j) sum[j] = from_float<D>(total[j]);
      store_vector<D, V>(to, sum);
    }
  }
}

template <int V, class D, class T>
void add_sorted(Tensor& y, const Tensor& x, const SortedIndices& sorted, std::int64_t n,
                const std::int32_t* bad) {
  const std::int64_t cols = y.size(1);
  const std::int64_t tasks = ceil_div(n, kWarp) * ceil_div(cols, kWarp * V);
  launch(add_kernel<V, D, T>, static_cast<unsigned>(ceil_div(tasks, kWarps)), kBlock, 0,
         y.data<D>(), x.data<T>(), sorted.keys, sorted.source, n, cols, bad);
}

template <class T>
__global__ void __launch_bounds__(kBlock)
    take_kernel(T* y, const T* x, const std::int32_t* index, std::int64_t n, std::int64_t cols,
                Fault* fault) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (i >= n) return;
  if (in_range(index[i], cols))
    y[i] = x[i * cols + index[i]];
  else
    report_fault(fault, Fault::kTakeAlongLast, i, index[i], cols);
}
template <class T>
__global__ void __launch_bounds__(kBlock)
    take_backward_kernel(T* dx, const T* dy, const std::int32_t* index, std::int64_t n,
                         std::int64_t cols, Fault* fault) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (i >= n) return;
  if (in_range(index[i], cols))
    dx[i * cols + index[i]] = dy[i];
  else
    report_fault(fault, Fault::kTakeAlongLast, i, index[i], cols);
}

unsigned blocks_for(std::int64_t n) { return static_cast<unsigned>(ceil_div(n, kBlock)); }

}  // namespace

void index_select(Tensor& y, const Tensor& x, const Tensor& index) {
  const std::int64_t n = index.numel(), rows = x.size(0), bytes = bytes_of(x.dtype(), x.size(1));
  with_unit(static_cast<std::uintptr_t>(bytes) | address(y.raw()) | address(x.raw()),
            [&]<class Unit>(Unit) {
              launch(select_kernel<Unit>, static_cast<unsigned>(ceil_div(n, kWarps)), kBlock, 0,
                     reinterpret_cast<Unit*>(y.raw()), reinterpret_cast<const Unit*>(x.raw()),
                     index.data<std::int32_t>(), n, rows,
                     bytes / static_cast<std::int64_t>(sizeof(Unit)), fault());
            });
}

void index_add(Tensor& y, const Tensor& index, const Tensor& x) {
  const std::int64_t n = index.numel(), rows = y.size(0), cols = y.size(1);
  if (n == 0) return;
  const std::int32_t* const to = index.data<std::int32_t>();
  Tensor bad = Tensor::empty({1}, DType::I32, y.device());
  NIBBLE_CUDA_CHECK(cudaMemsetAsync(bad.raw(), 0, sizeof(std::int32_t), stream()));
  launch(check_kernel, blocks_for(n), kBlock, 0, bad.data<std::int32_t>(), to, n, rows, fault());
  if (cols == 0) return;
  const SortedIndices sorted = sort_indices(to, n, rows, y.device());
  NIBBLE_CUDA_FLOAT_SWITCH(y.dtype(), "index_add", D, {
    NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "index_add", T, {
      if constexpr (sizeof(T) <= sizeof(D)) {
        const bool pairs = cols % 2 == 0 && is_aligned(y.raw(), 2 * sizeof(D)) &&
                           is_aligned(x.raw(), 2 * sizeof(T));
        const auto add = pairs ? add_sorted<2, D, T> : add_sorted<1, D, T>;
        add(y, x, sorted, n, bad.data<std::int32_t>());
      }
    });
  });
}

void take_along_last(Tensor& y, const Tensor& x, const Tensor& index) {
  const std::int64_t n = index.numel();
  NIBBLE_CUDA_FLOAT_SWITCH(y.dtype(), "take_along_last", T,
                           launch(take_kernel<T>, blocks_for(n), kBlock, 0, y.data<T>(),
                                  x.data<T>(), index.data<std::int32_t>(), n, x.cols(), fault()));
}

void take_along_last_backward(Tensor& dx, const Tensor& dy, const Tensor& index) {
  const std::int64_t n = index.numel();
  NIBBLE_CUDA_FLOAT_SWITCH(dx.dtype(), "take_along_last_backward", T,
                           launch(take_backward_kernel<T>, blocks_for(n), kBlock, 0, dx.data<T>(),
                                  dy.data<T>(), index.data<std::int32_t>(), n, dx.cols(), fault()));
}

}  // namespace nibble::cuda
