// Softmax and log-softmax along the last dimension. Rows of up to 8192 bf16 (4096 f32) stay in
// registers: forward reads and writes an element once (4 or 8 bytes), backward reads two and writes
// one (6 or 12 bytes), and both are bound by memory. Longer rows are read twice. The maximum and
// the sum of exponentials come from one pass (ExpSum).
#include "tensor/cuda/rows.cuh"
#include "tensor/kernels.h"

namespace nibble::cuda {
namespace {

template <bool kLog, class T, class Tile>
__global__ void __launch_bounds__(Tile::kBlock)
    softmax_kernel(T* y, const T* x, std::int64_t rows, int cols) {
  __shared__ float scratch[2][Tile::kBlockWarps];
  const std::int64_t row = Tile::row();
  const int n = row < rows ? cols : 0;
  const Row<T, Tile> in(x + row * cols, n, from_float<T>(-INFINITY));
  ExpSum<T> total;
  for_row_vectors<T, Tile>(n, [&](int j, int at) {
    const Vector<float, kVector<T>> v[1] = {in.get(j, at)};
    total.add(v);
  });
  total.template reduce<Tile>(scratch[0], scratch[1]);
  const float m = total.max;
  if constexpr (kLog) {
    const float log_sum = logf(total.sum);
    write_row<T, Tile>(
        y + row * cols, n, [=](float v) { return (v - m) - log_sum; }, in);
  } else {
    // A row of −inf only gives NaN, as 0 / 0 does: m is −inf then.
    const float inverse = 1.0f / total.sum;
    write_row<T, Tile>(
        y + row * cols, n, [=](float v) { return row_exp<T>(v - m) * inverse; }, in);
  }
}

template <bool kLog, class T, class Tile>
__global__ void __launch_bounds__(Tile::kBlock)
    softmax_backward_kernel(T* dx, const T* dy, const T* y, std::int64_t rows, int cols) {
  __shared__ float scratch[Tile::kBlockWarps];
  const std::int64_t row = Tile::row();
  const int n = row < rows ? cols : 0;
  const Row<T, Tile> grad(dy + row * cols, n), out(y + row * cols, n);
  float total = 0;
  for_row_vectors<T, Tile>(n, [&](int j, int at) {
    const auto g = grad.get(j, at);
    if constexpr (kLog) {
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) total += g[e];
    } else {
      const auto p = out.get(j, at);
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) total = fmaf(g[e], p[e], total);
    }
  });
  total = row_sum<Tile>(total, scratch);
  const auto gradient = [=](float d, float v) {
    return kLog ? fmaf(-row_exp<T>(v), total, d) : v * (d - total);
  };
  write_row<T, Tile>(dx + row * cols, n, gradient, grad, out);
}

template <bool kLog>
void forward(const char* op, Tensor& y, const Tensor& x) {
  NIBBLE_CUDA_FLOAT_SWITCH(y.dtype(), op, T, {
    const int cols = row_length(op, x);
    const bool whole = are_whole_rows<T>(cols, y.data<T>(), x.data<T>());
    with_row_tile<T>(cols, whole, [&](auto tile) {
      using Tile = decltype(tile);
      launch(softmax_kernel<kLog, T, Tile>, Tile::blocks(x.rows()), Tile::kBlock, 0, y.data<T>(),
             x.data<T>(), x.rows(), cols);
    });
  });
}

template <bool kLog>
void backward(const char* op, Tensor& dx, const Tensor& dy, const Tensor& y) {
  NIBBLE_CUDA_FLOAT_SWITCH(dx.dtype(), op, T, {
    const int cols = row_length(op, y);
    const bool whole = are_whole_rows<T>(cols, dx.data<T>(), dy.data<T>(), y.data<T>());
    with_row_tile<T>(cols, whole, [&](auto tile) {
      using Tile = decltype(tile);
      launch(softmax_backward_kernel<kLog, T, Tile>, Tile::blocks(y.rows()), Tile::kBlock, 0,
             dx.data<T>(), dy.data<T>(), y.data<T>(), y.rows(), cols);
    });
  });
}

}  // namespace

void softmax(Tensor& y, const Tensor& x) { forward<false>("softmax", y, x); }
void softmax_backward(Tensor& dx, const Tensor& dy, const Tensor& y) {
  backward<false>("softmax_backward", dx, dy, y);
}
void log_softmax(Tensor& y, const Tensor& x) { forward<true>("log_softmax", y, x); }
void log_softmax_backward(Tensor& dx, const Tensor& dy, const Tensor& y) {
  backward<true>("log_softmax_backward", dx, dy, y);
}

}  // namespace nibble::cuda
