// Rows of a table by index. index_select and take_along_last move each element once each way.
// index_add reads x and reads and writes the touched rows once: 50 MB at 32 k tokens x 768 in bf16;
// before it a stable sort groups indices by row, so that a row's sum runs in ascending order,
// starts from the row and rounds once, like the CPU's. A row's chain of additions is serial: one
// that receives all of 32 k indices takes about a load's latency for each 32 of them.
#include "tensor/cuda/index_add.cuh"
#include "tensor/cuda/units.cuh"
#include "tensor/kernels.h"

namespace nibble::cuda {
namespace {

constexpr unsigned kBlock = kIndexBlock;
constexpr unsigned kWarps = kBlock / kWarp;

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
    zero_kernel(T* x, const std::int32_t* index, std::int64_t n, std::int64_t cols) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (i < n && in_range(index[i], cols)) x[i * cols + index[i]] = from_float<T>(0.0f);
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
        const PlainRows<T> source{x.data<T>(), cols};
        const auto add = pairs ? add_sorted<2, D, PlainRows<T>> : add_sorted<1, D, PlainRows<T>>;
        add(y.data<D>(), source, sorted, n, rows, bad.data<std::int32_t>());
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

void zero_along_last(Tensor& x, const Tensor& index) {
  const std::int64_t n = index.numel();
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "zero_along_last", T,
                           launch(zero_kernel<T>, blocks_for(n), kBlock, 0, x.data<T>(),
                                  index.data<std::int32_t>(), n, x.cols()));
}

void take_along_last_backward(Tensor& dx, const Tensor& dy, const Tensor& index) {
  const std::int64_t n = index.numel();
  NIBBLE_CUDA_FLOAT_SWITCH(dx.dtype(), "take_along_last_backward", T,
                           launch(take_backward_kernel<T>, blocks_for(n), kBlock, 0, dx.data<T>(),
                                  dy.data<T>(), index.data<std::int32_t>(), n, dx.cols(), fault()));
}

}  // namespace nibble::cuda
