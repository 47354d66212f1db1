// LayerNorm and RMSNorm over rows, and a layer norm of a sum that is formed on the way. Reads x and
// writes y once (4 bytes an element in bf16; with a residual it reads and writes one more: 8) and
// computes mean and variance in two sweeps over registers: some 12 operations an element, bound by
// memory. Measured by `nibble bench kernels`: 92 % of a copy, with a residual all of it. Rows of
// more than 8192 bf16 (4096 f32) are read again in every sweep.
#include "tensor/cuda/norm_row.cuh"
#include "tensor/residual.h"

namespace nibble::cuda {
namespace {

// What the forward kernels read and write; mean is null for rms_norm, beta may be, and residual and
// sum are unless they are added.
template <class T>
struct Forward {
  T* y;
  float *mean, *rstd;
  const T *x, *gamma, *beta;
  std::int64_t rows;
  int cols;
  float epsilon;
  const T* residual;
  T* sum;
};

template <bool kCentred, class T, class Tile, class R>
__device__ void write_norm(const Forward<T>& f, const R& in, std::int64_t row, int n) {
  __shared__ float scratch[2][Tile::kBlockWarps];
  const auto [mu, inverse] = norm_statistics<kCentred, T, Tile>(in, n, f.cols, f.epsilon, scratch);
  T* to = f.y + row * f.cols;
  const auto value = [mu = mu, inverse = inverse](float v, float g, float b) {
    return norm_value(v, mu, inverse, g, b);
  };
  if constexpr (Tile::kHeld > 0) {
    write_row<T, Tile>(to, n, value, in, HeldRow<T, Tile>(f.gamma, n),
                       HeldRow<T, Tile>(f.beta, n, kNoShift));
  } else {
    const Row<T, Tile> gamma(f.gamma, n);
    if (f.beta)
      write_row<T, Tile>(to, n, value, in, gamma, Row<T, Tile>(f.beta, n));
    else
      write_row<T, Tile>(
          to, n, [=](float v, float g) { return value(v, g, kNoShift); }, in, gamma);
  }
  if (n > 0 && Tile::thread() == 0) {
    if constexpr (kCentred) f.mean[row] = mu;
    f.rstd[row] = inverse;
  }
}

template <bool kCentred, class T, class Tile>
__global__ void __launch_bounds__(Tile::kBlock) forward_kernel(const Forward<T> f) {
  using Held = std::conditional_t<(Tile::kHeld > 0), HeldRow<T, Tile>, Row<T, Tile>>;
  const std::int64_t row = Tile::row();
  const int n = row < f.rows ? f.cols : 0;
  write_norm<kCentred, T, Tile>(f, Held(f.x + row * f.cols, n), row, n);
}
// Of x + residual.
template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kBlock) summed_kernel(const Forward<T> f) {
  const std::int64_t row = Tile::row(), at = row * f.cols;
  const int n = row < f.rows ? f.cols : 0;
  write_norm<true, T, Tile>(f, HeldRow<T, Tile>(f.sum + at, f.x + at, f.residual + at, n), row, n);
}

template <bool kCentred, class T>
void forward(const char* op, Tensor& y, Tensor* mean, Tensor& rstd, const Tensor& x,
             const Tensor& gamma, const Tensor& beta, double epsilon,
             const Tensor* residual = nullptr, Tensor* sum = nullptr) {
  const Forward<T> f{y.data<T>(),
                     kCentred ? mean->data<float>() : nullptr,
                     rstd.data<float>(),
                     x.data<T>(),
                     gamma.data<T>(),
                     beta.defined() ? beta.data<T>() : nullptr,
                     x.rows(),
                     row_length(op, x),
                     static_cast<float>(epsilon),
                     residual ? residual->data<T>() : nullptr,
                     sum ? sum->data<T>() : nullptr};
  const bool whole = are_whole_rows<T>(f.cols, f.y, f.x, f.gamma, f.beta, f.residual, f.sum);
  with_row_tile<T>(f.cols, whole, [&](auto tile) {
    using Tile = decltype(tile);
    const auto run = [&](auto kernel) { launch(kernel, Tile::blocks(f.rows), Tile::kBlock, 0, f); };
    if constexpr (kCentred && Tile::kHeld > 0)
      if (f.sum) return run(summed_kernel<T, Tile>);
    run(forward_kernel<kCentred, T, Tile>);
  });
}

}  // namespace

void layer_norm(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x, const Tensor& gamma,
                const Tensor& beta, double epsilon) {
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "layer_norm", T,
                           forward<true, T>("layer_norm", y, &mean, rstd, x, gamma, beta, epsilon));
}

void add_layer_norm(Tensor& sum, Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x,
                    const Tensor& residual, const Tensor& gamma, const Tensor& beta,
                    double epsilon) {
  constexpr const char* kOp = "add_layer_norm";
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), kOp, T, {
    if (x.cols() <= kHeldColumns<T>)
      return forward<true, T>(kOp, y, &mean, rstd, x, gamma, beta, epsilon, &residual, &sum);
  });
  add(sum, x, residual);  // longer rows are read again anyway
  layer_norm(y, mean, rstd, sum, gamma, beta, epsilon);
}

void rms_norm(Tensor& y, Tensor& rstd, const Tensor& x, const Tensor& gamma, double epsilon) {
  NIBBLE_CUDA_FLOAT_SWITCH(
      x.dtype(), "rms_norm", T,
      forward<false, T>("rms_norm", y, nullptr, rstd, x, gamma, Tensor(), epsilon));
}

}  // namespace nibble::cuda
