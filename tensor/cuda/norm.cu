// LayerNorm and RMSNorm over rows. Forward reads x and writes y once (4 bytes an element in bf16)
// and computes mean and variance in two sweeps over registers. Backward reads dy and x and writes
// dx once (6 bytes); its sums over rows, dgamma and dbeta, are taken in the same pass: a block adds
// up its rows in registers and writes one line of partial sums, and a second kernel adds those in
// order. With 256 lines they are 4 KiB a column, 2 % of the bytes at 32768 rows, 9 % at 8192. Bound
// by memory; measured by `nibble bench kernels`. Rows of more than 8192 bf16 (4096 f32) are read
// again in every sweep.
#include "tensor/cuda/columns.cuh"
#include "tensor/kernels.h"

namespace nibble::cuda {
namespace {

// What the forward kernels read and write; mean is null for rms_norm, beta may be.
template <class T>
struct Forward {
  T* y;
  float *mean, *rstd;
  const T *x, *gamma, *beta;
  std::int64_t rows;
  int cols;
  float epsilon;
};

template <bool kCentred, class T, class Tile>
__global__ void __launch_bounds__(Tile::kBlock) forward_kernel(const Forward<T> f) {
  __shared__ float scratch[2][Tile::kBlockWarps];
  const std::int64_t row = Tile::row();
  const int n = row < f.rows ? f.cols : 0;
  const auto width = static_cast<float>(f.cols);
  const Row<T, Tile> in(f.x + row * f.cols, n), gamma(f.gamma, n), beta(f.beta, f.beta ? n : 0);
  float mu = 0, squares = 0;
  if constexpr (kCentred) {
    in.each([&](float v, int) { mu += v; });
    mu = row_sum<Tile>(mu, scratch[0]) / width;
  }
  in.each([&](float v, int column) {
    const float d = Tile::kWhole || column < n ? v - mu : 0.0f;
    squares = fmaf(d, d, squares);
  });
  const float inverse = 1.0f / sqrtf(row_sum<Tile>(squares, scratch[1]) / width + f.epsilon);
  T* to = f.y + row * f.cols;
  if (f.beta)
    write_row<T, Tile>(
        to, n, [=](float v, float g, float b) { return fmaf((v - mu) * inverse, g, b); }, in, gamma,
        beta);
  else
    write_row<T, Tile>(
        to, n, [=](float v, float g) { return (v - mu) * inverse * g; }, in, gamma);
  if (n > 0 && Tile::thread() == 0) {
    if constexpr (kCentred) f.mean[row] = mu;
    f.rstd[row] = inverse;
  }
}

// What the backward kernels read. x̂ = (x − µ)·rstd.
template <class T>
struct Saved {
  const T *dy, *x, *gamma;
  const float *mean, *rstd;  // no mean: rms_norm
  std::int64_t rows;
  int cols;
};

constexpr std::int64_t kLines = 256;  // of partial sums, at most

// With g = dy·γ: dx = rstd·(g − mean(g) − x̂·mean(g·x̂)), where rms_norm has no mean(g).
template <bool kCentred, class T, class Tile>
__device__ void write_gradient(T* dx, int n, const Row<T, Tile>& dy, const Row<T, Tile>& x,
                               const Row<T, Tile>& gamma, float mu, float inverse, float mean_g,
                               float mean_gx) {
  const auto gradient = [=](float d, float s, float v) {
    const float g = kCentred ? fmaf(d, s, -mean_g) : d * s;
    return inverse * fmaf(-(v - mu) * inverse, mean_gx, g);
  };
  write_row<T, Tile>(dx, n, gradient, dy, gamma, x);
}

// A block takes `rows_of_block` rows. partial [gridDim.x, 2, cols]: Σ dy·x̂ and Σ dy over them. dx
// and partial may be null.
template <bool kCentred, class T, class Tile>
__global__ void __launch_bounds__(Tile::kBlock, 512 / Tile::kBlock)
    backward_kernel(T* dx, float* partial, Saved<T> s, std::int64_t rows_of_block) {
  constexpr int V = kVector<T>, kSlots = Tile::kHeld * V;
  __shared__ float scratch[2][2][Tile::kBlockWarps];
  __shared__ float lines[Tile::kRows > 1 ? Tile::kThreads * kSlots : 1];
  const std::int64_t begin = blockIdx.x * rows_of_block;
  const std::int64_t end = begin + rows_of_block < s.rows ? begin + rows_of_block : s.rows;
  const auto width = static_cast<float>(s.cols);
  const unsigned part = threadIdx.x / Tile::kThreads;  // which of the block's rows
  const Row<T, Tile> gamma(s.gamma, s.cols);
  float dgamma[kSlots] = {}, dbeta[kSlots] = {};

  // Warps that meet at barriers read their next row before they reduce this one. A warp that has a
  // row to itself lacks the registers and, without barriers, the need.
  constexpr bool kAhead = Tile::kWarps > 1;
  struct Pair {
    Row<T, Tile> dy, x;
  };
  const auto read = [&](std::int64_t row) {
    const int n = row < end ? s.cols : 0;
    return Pair{{s.dy + row * s.cols, n}, {s.x + row * s.cols, n}};
  };
  Pair now = read(begin + part);
  bool parity = false;  // a row's scratch may be read until the next row's barrier
  for (std::int64_t first = begin; first < end; first += Tile::kRows, parity = !parity) {
    const std::int64_t row = first + part;
    const int n = row < end ? s.cols : 0;
    if (!kAhead && first > begin) now = read(row);
    const Pair next = kAhead ? read(row + Tile::kRows) : now;
    const auto& [dy, x] = now;
    const float mu = kCentred && n > 0 ? s.mean[row] : 0.0f, inverse = n > 0 ? s.rstd[row] : 0.0f;
    float sum_g = 0, sum_gx = 0;
    for_row_vectors<T, Tile>(n, [&](int j, int at) {
      const auto d = dy.get(j, at), v = x.get(j, at), w = gamma.get(j, at);
#pragma unroll
      for (int e = 0; e < V; ++e) {  // past the end d is 0
        const float hat = (v[e] - mu) * inverse, g = d[e] * w[e];
        sum_g += g;
        sum_gx = fmaf(g, hat, sum_gx);
        dgamma[j * V + e] = fmaf(d[e], hat, dgamma[j * V + e]);
        dbeta[j * V + e] += d[e];
      }
    });
    if (dx) {
      const float mean_g = kCentred ? row_sum<Tile>(sum_g, scratch[parity][0]) / width : 0.0f;
      const float mean_gx = row_sum<Tile>(sum_gx, scratch[parity][1]) / width;
      write_gradient<kCentred>(dx + row * s.cols, n, dy, x, gamma, mu, inverse, mean_g, mean_gx);
    }
    now = next;
  }
  if (!partial) return;
  // The block's row parts are added in order, through shared memory.
  const auto write_line = [&](float(&sum)[kSlots], float* to) {
    for (unsigned p = Tile::kRows - 1; p > 0; --p) {
      __syncthreads();
      if (part == p)
#pragma unroll
        for (int i = 0; i < kSlots; ++i) lines[i * Tile::kThreads + Tile::thread()] = sum[i];
      __syncthreads();
      if (part == p - 1)
#pragma unroll
        for (int i = 0; i < kSlots; ++i) sum[i] += lines[i * Tile::kThreads + Tile::thread()];
    }
    if (part > 0) return;
    for_row_vectors<T, Tile>(s.cols, [&](int j, int at) {
#pragma unroll
      for (int e = 0; e < V; ++e)
        if (at + e < s.cols) to[at + e] = sum[j * V + e];
    });
  };
  write_line(dgamma, partial + blockIdx.x * std::int64_t{2} * s.cols);
  write_line(dbeta, partial + (blockIdx.x * std::int64_t{2} + 1) * s.cols);
}

// Rows of any length: dx alone.
template <bool kCentred, class T, class Tile>
__global__ void __launch_bounds__(Tile::kBlock) long_gradient_kernel(T* dx, Saved<T> s) {
  __shared__ float scratch[2][Tile::kBlockWarps];
  const std::int64_t row = blockIdx.x;
  const Row<T, Tile> dy(s.dy + row * s.cols, s.cols), x(s.x + row * s.cols, s.cols);
  const Row<T, Tile> gamma(s.gamma, s.cols);
  const auto width = static_cast<float>(s.cols);
  const float mu = kCentred ? s.mean[row] : 0.0f, inverse = s.rstd[row];
  float sum_g = 0, sum_gx = 0;
  for_row_vectors<T, Tile>(s.cols, [&](int j, int at) {
    const auto d = dy.get(j, at), v = x.get(j, at), w = gamma.get(j, at);
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) {
      const float g = d[e] * w[e];
      sum_g += g;
      sum_gx = fmaf(g, (v[e] - mu) * inverse, sum_gx);
    }
  });
  const float mean_g = kCentred ? row_sum<Tile>(sum_g, scratch[0]) / width : 0.0f;
  const float mean_gx = row_sum<Tile>(sum_gx, scratch[1]) / width;
  write_gradient<kCentred>(dx + row * s.cols, s.cols, dy, x, gamma, mu, inverse, mean_g, mean_gx);
}
// And the partial sums: a thread a column, blockIdx.y a line.
template <bool kCentred, class T>
__global__ void __launch_bounds__(256)
    long_lines_kernel(float* partial, Saved<T> s, std::int64_t rows_of_line) {
  const std::int64_t column = blockIdx.x * std::int64_t{256} + threadIdx.x;
  if (column >= s.cols) return;
  const std::int64_t begin = blockIdx.y * rows_of_line;
  const std::int64_t end = begin + rows_of_line < s.rows ? begin + rows_of_line : s.rows;
  float dgamma = 0, dbeta = 0;
#pragma unroll 4
  for (std::int64_t row = begin; row < end; ++row) {
    const float d = to_float(s.dy[row * s.cols + column]);
    const float v = to_float(s.x[row * s.cols + column]);
    dgamma = fmaf(d, (v - (kCentred ? s.mean[row] : 0.0f)) * s.rstd[row], dgamma);
    dbeta += d;
  }
  partial[blockIdx.y * std::int64_t{2} * s.cols + column] = dgamma;
  partial[(blockIdx.y * std::int64_t{2} + 1) * s.cols + column] = dbeta;
}

// Adds the sums of [dgamma | dbeta] to gradients that may be wider than x, or null.
struct AddToGradients {
  void* to[2];
  bool wide[2];
  std::int64_t cols;
  __device__ void operator()(std::int64_t i, float sum) const {
    const int which = i >= cols;
    const std::int64_t c = i - which * cols;
    if (!to[which]) return;
    if (wide[which]) {
      static_cast<float*>(to[which])[c] += sum;
    } else {
      auto* d = static_cast<bfloat16*>(to[which]);
      d[c] = from_float<bfloat16>(to_float(d[c]) + sum);
    }
  }
};

template <bool kCentred, class T>
void forward(const char* op, Tensor& y, Tensor* mean, Tensor& rstd, const Tensor& x,
             const Tensor& gamma, const T* beta, double epsilon) {
  const Forward<T> f{y.data<T>(),
                     kCentred ? mean->data<float>() : nullptr,
                     rstd.data<float>(),
                     x.data<T>(),
                     gamma.data<T>(),
                     beta,
                     x.rows(),
                     row_length(op, x),
                     static_cast<float>(epsilon)};
  const bool whole = are_whole_rows<T>(f.cols, f.y, f.x, f.gamma, f.beta);
  with_row_tile<T>(f.cols, whole, [&](auto tile) {
    using Tile = decltype(tile);
    launch(forward_kernel<kCentred, T, Tile>, Tile::blocks(f.rows), Tile::kBlock, 0, f);
  });
}

template <bool kCentred, class T>
void backward(const char* op, Tensor& dx, Tensor& dgamma, Tensor* dbeta, const Tensor& dy,
              const Tensor& x, const Tensor& gamma, const float* mean, const Tensor& rstd) {
  const Saved<T> s{dy.data<T>(),       x.data<T>(), gamma.data<T>(),  mean,
                   rstd.data<float>(), x.rows(),    row_length(op, x)};
  AddToGradients add{{nullptr, nullptr}, {false, false}, s.cols};
  Tensor* gradients[2] = {&dgamma, dbeta};
  for (int k = 0; k < 2; ++k) {
    if (!gradients[k] || !gradients[k]->defined()) continue;
    NIBBLE_CUDA_FLOAT_SWITCH(gradients[k]->dtype(), op, D, {
      add.to[k] = gradients[k]->data<D>();
      add.wide[k] = sizeof(D) == 4;
    });
  }
  if (s.rows * s.cols == 0) return;
  const bool parameters = add.to[0] || add.to[1];
  T* gradient = dx.defined() ? dx.data<T>() : nullptr;
  const bool whole = are_whole_rows<T>(s.cols, gradient, s.dy, s.x, s.gamma);
  with_row_tile<T>(s.cols, whole, [&](auto tile) {
    using Tile = decltype(tile);
    // Rows of a line: they follow from the shape alone, not from the device.
    const std::int64_t rows_of_line = ceil_div(ceil_div(s.rows, kLines), Tile::kRows) * Tile::kRows;
    const std::int64_t lines = ceil_div(s.rows, rows_of_line);
    Tensor partial;
    if (parameters)
      partial = Tensor::empty({lines, std::int64_t{2} * s.cols}, DType::F32, x.device());
    float* sums = parameters ? partial.data<float>() : nullptr;
    if constexpr (Tile::kHeld > 0) {
      launch(backward_kernel<kCentred, T, Tile>, static_cast<unsigned>(lines), Tile::kBlock, 0,
             gradient, sums, s, rows_of_line);
    } else {
      if (gradient)
        launch(long_gradient_kernel<kCentred, T, Tile>, static_cast<unsigned>(s.rows), Tile::kBlock,
               0, gradient, s);
      if (parameters)
        launch(long_lines_kernel<kCentred, T>,
               dim3(static_cast<unsigned>(ceil_div(s.cols, 256)), static_cast<unsigned>(lines)),
               256, 0, sums, s, rows_of_line);
    }
    if (parameters) fold_bands<SumFold>(partial, 1, lines, std::int64_t{2} * s.cols, add);
  });
}

}  // namespace

void layer_norm(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x, const Tensor& gamma,
                const Tensor& beta, double epsilon) {
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "layer_norm", T,
                           forward<true, T>("layer_norm", y, &mean, rstd, x, gamma,
                                            beta.defined() ? beta.data<T>() : nullptr, epsilon));
}

void layer_norm_backward(Tensor& dx, Tensor& dgamma, Tensor& dbeta, const Tensor& dy,
                         const Tensor& x, const Tensor& gamma, const Tensor& mean,
                         const Tensor& rstd) {
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "layer_norm_backward", T, {
    backward<true, T>("layer_norm_backward", dx, dgamma, &dbeta, dy, x, gamma, mean.data<float>(),
                      rstd);
  });
}

void rms_norm(Tensor& y, Tensor& rstd, const Tensor& x, const Tensor& gamma, double epsilon) {
  NIBBLE_CUDA_FLOAT_SWITCH(
      x.dtype(), "rms_norm", T,
      forward<false, T>("rms_norm", y, nullptr, rstd, x, gamma, nullptr, epsilon));
}

void rms_norm_backward(Tensor& dx, Tensor& dgamma, const Tensor& dy, const Tensor& x,
                       const Tensor& gamma, const Tensor& rstd) {
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "rms_norm_backward", T, {
    backward<false, T>("rms_norm_backward", dx, dgamma, nullptr, dy, x, gamma, nullptr, rstd);
  });
}

}  // namespace nibble::cuda
