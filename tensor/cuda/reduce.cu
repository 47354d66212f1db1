// Sums and maxima over a middle dimension, add_bias, and the two
// questions a training step asks of its gradients. Every element is read once, 4 or 2 bytes;
// add_bias also writes it. All are bound by memory. Folds have the CPU's order (lanes.cuh,
// columns.cuh): their results are bit-equal to the CPU's, NaN payloads aside.
#include "tensor/cuda/columns.cuh"
#include "tensor/kernels.h"

namespace nibble::cuda {
namespace {

template <class Fold>
void reduce(const char* op, Tensor& y, const Tensor& x, std::int64_t outer, std::int64_t n,
            std::int64_t inner) {
  NIBBLE_CUDA_FLOAT_SWITCH(y.dtype(), op, T, {
    const Store<T> store{y.data<T>()};
    if (inner == 1)
      fold_rows<float, T, Fold, Itself>(x, outer, n, store);
    else
      fold_columns<T, Fold>(x, outer, n, inner, store);
  });
}

// The running total that a sum of squares goes on from.
struct Total {
  double* to;
  bool go_on;
  __device__ double begin(std::int64_t, double first) const { return go_on ? *to + first : first; }
  __device__ void operator()(std::int64_t, double value) const { *to = value; }
};

// Not an atomic: whoever finds one writes the same 0.
template <class T>
__global__ void all_finite_kernel(const T* x, std::int64_t n, std::uint8_t* y) {
  constexpr int V = kVector<T>;
  bool finite = true;
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x * V;
#pragma unroll 4
  for (std::int64_t at = (blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x) * V; at < n;
       at += step) {
    const auto v = load_row_vector(x + at, valid_at<T>(n, at), T(0.0f));
#pragma unroll
    for (int e = 0; e < V; ++e) finite &= fabsf(to_float(v[e])) < INFINITY;
  }
  if (!finite) *y = 0;
}

// A block's threads take 1 << log_width column vectors of a few rows each, and keep their bias.
template <int V, class T>
__global__ void __launch_bounds__(256)
    add_bias_kernel(T* y, const T* bias, std::int64_t rows, std::int64_t cols, std::int64_t tiles,
                    int log_width) {
  constexpr int kRowsOfThread = 8;
  const std::int64_t at =
      (((blockIdx.x % tiles) << log_width) + (threadIdx.x & ((1 << log_width) - 1))) * V;
  if (at >= cols) return;
  const Vector<T, V> b = load_vector<T, V>(bias + at);
  const int step = 256 >> log_width;
  const std::int64_t first = blockIdx.x / tiles * step * kRowsOfThread + (threadIdx.x >> log_width);
#pragma unroll
  for (int k = 0; k < kRowsOfThread; ++k) {
    const std::int64_t row = first + k * step;
    if (row >= rows) return;
    Vector<T, V> v = load_vector<T, V>(y + row * cols + at);
#pragma unroll
    for (int e = 0; e < V; ++e) v[e] = from_float<T>(to_float(v[e]) + to_float(b[e]));
    store_vector(y + row * cols + at, v);
  }
}
template <int V, class T>
void add_bias_by(Tensor& y, const Tensor& bias) {
  const std::int64_t rows = y.size(0), cols = y.size(1);
  int log_width = 0;
  while (log_width < 5 && (std::int64_t{1} << log_width) * V < cols) ++log_width;
  const std::int64_t tiles = ceil_div(cols, (std::int64_t{1} << log_width) * V);
  const std::int64_t bands = ceil_div(rows, (256 >> log_width) * 8);
  launch(add_bias_kernel<V, T>, static_cast<unsigned>(tiles * bands), 256, 0, y.data<T>(),
         bias.data<T>(), rows, cols, tiles, log_width);
}

}  // namespace

void sum(Tensor& y, const Tensor& x, std::int64_t outer, std::int64_t n, std::int64_t inner) {
  reduce<SumFold>("sum", y, x, outer, n, inner);
}
void max(Tensor& y, const Tensor& x, std::int64_t outer, std::int64_t n, std::int64_t inner) {
  reduce<MaxFold>("max", y, x, outer, n, inner);
}

void sum_squares(Tensor& y, const Tensor& x, bool accumulate) {
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "sum_squares", T, {
    fold_rows<double, T, SumFold, Square>(x, 1, x.numel(), Total{y.data<double>(), accumulate});
  });
}

void all_finite(Tensor& y, const Tensor& x) {
  NIBBLE_CUDA_CHECK(cudaMemsetAsync(y.raw(), 1, 1, stream()));
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "all_finite", T, {
    const std::int64_t n = x.numel();
    launch(all_finite_kernel<T>, grid_for(ceil_div(n, kVector<T>), 256), 256, 0, x.data<T>(), n,
           y.data<std::uint8_t>());
  });
}

void add_bias(Tensor& y, const Tensor& bias) {
  NIBBLE_CUDA_FLOAT_SWITCH(y.dtype(), "add_bias", T, {
    if (y.size(1) % kVector<T> == 0 && is_aligned(y.data<T>(), 16) &&
        is_aligned(bias.data<T>(), 16))
      add_bias_by<kVector<T>, T>(y, bias);
    else
      add_bias_by<1, T>(y, bias);
  });
}

}  // namespace nibble::cuda
