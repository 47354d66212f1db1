// Rows with weights, of values or of codes with one step a row. Gathering reads a row of the table
// and reads and writes one of y; scattering sorts the indices (tensor/cuda/index_add.cuh), reads x
// and reads and writes the touched rows once. At 32 k tokens × 768 of codes 125 and 50 MB: bound by
// memory, scattering by latency where one row receives thousands.
#include "quant/kernels.h"
#include "tensor/cuda/index_add.cuh"

namespace nibble::cuda {
namespace {

constexpr unsigned kBlock = 256, kWarps = kBlock / kWarp;

// A warp has a row of y.
template <int V, class D, class T>
__global__ void __launch_bounds__(kBlock)
    gather_kernel(D* y, const std::int32_t* index, const WeightedRows<T> rows, std::int64_t n,
                  std::int64_t table) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (i >= n || !in_range(index[i], table)) return;
  const std::int32_t row = index[i];
  const float factor = rows.factor(i, row);
  const T* const from = rows.x + row * rows.cols;
  D* const to = y + i * rows.cols;
#pragma unroll 4
  for (std::int64_t c = threadIdx.x % kWarp * V; c < rows.cols; c += kWarp * V) {
    const Vector<T, V> x = load_vector<T, V>(from + c);
    Vector<D, V> sum = load_vector<D, V>(to + c);
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] = from_float<D>(rows.add(to_float(sum[j]), x[j], factor));
    store_vector<D, V>(to + c, sum);
  }
}

// fn(y, weighted rows, whether vectors of V elements fit) of the types at hand.
template <int V, class F>
void with_rows(const char* op, Tensor& y, const Tensor& weight, const Tensor& x,
               const Tensor& steps, F fn) {
  const std::int64_t cols = y.size(1);
  const float* each = steps.defined() ? steps.data<float>() : nullptr;
  const auto of = [&]<class T>(const T* from) {
    NIBBLE_CUDA_FLOAT_SWITCH(y.dtype(), op, D, {
      const bool whole =
          cols % V == 0 && is_aligned(y.raw(), V * sizeof(D)) && is_aligned(from, V * sizeof(T));
      fn(y.data<D>(), WeightedRows<T>{from, cols, weight.data<float>(), each}, whole);
    });
  };
  if (x.dtype() == DType::I8)
    of(x.data<std::int8_t>());
  else
    NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), op, T, of(x.data<T>()));
}

}  // namespace

void quant_gather_rows(Tensor& y, const Tensor& index, const Tensor& weight, const Tensor& x,
                       const Tensor& steps) {
  constexpr int V = 4;
  const std::int64_t n = index.numel(), table = x.size(0);
  with_rows<V>("quant_gather_rows", y, weight, x, steps,
               [&]<class D, class T>(D* to, const WeightedRows<T>& rows, bool whole) {
                 launch(whole ? gather_kernel<V, D, T> : gather_kernel<1, D, T>,
                        static_cast<unsigned>(ceil_div(n, kWarps)), kBlock, 0, to,
                        index.data<std::int32_t>(), rows, n, table);
               });
}

void quant_scatter_rows(Tensor& y, const Tensor& index, const Tensor& weight, const Tensor& x,
                        const Tensor& steps) {
  constexpr int V = 8;
  const std::int64_t n = index.numel(), table = y.size(0);
  if (n == 0 || y.numel() == 0) return;
  // A table of one more row: −1 shares no digits with a row of it, and is sorted behind all.
  const SortedIndices sorted = sort_indices(index.data<std::int32_t>(), n, table + 1, y.device());
  with_rows<V>("quant_scatter_rows", y, weight, x, steps,
               [&]<class D, class T>(D* to, const WeightedRows<T>& rows, bool whole) {
                 const auto add =
                     whole ? add_sorted<V, D, WeightedRows<T>> : add_sorted<1, D, WeightedRows<T>>;
                 add(to, rows, sorted, n, table, nullptr);
               });
}

}  // namespace nibble::cuda
