// Backward of LayerNorm and RMSNorm, and of a layer norm whose input has a gradient already, which
// is added. Reads dy and x and writes dx once (6 bytes an element in bf16; with the other gradient
// 8), about 20 operations an element; its sums over rows, dgamma and dbeta, are taken in the same
// pass: a block adds up its rows in registers and writes one line of partial sums, and a second
// kernel adds those in order. With 256 lines they are 4 KiB a column, 2 % of the bytes at 32768
// rows, 9 % at 8192. Bound by memory once the next rows are on their way (rows_ahead.cuh).
// Measured: tests/bench/results/2026-11-29-norms.md. Rows of more than 8192 bf16 (4096 f32) are
// read again in every sweep.
#include "tensor/cuda/rows_ahead.cuh"
#include "tensor/residual.h"

namespace nibble::cuda {
namespace {

// What the backward kernels read. x̂ = (x − µ)·rstd.
template <class T>
struct Saved {
  const T *dy, *x, *before;  // before: null where nothing is added
  const T* gamma;
  const float *mean, *rstd;  // no mean: rms_norm
  std::int64_t rows;
  int cols;
};

constexpr std::int64_t kLines = 256;  // of partial sums, at most

// With g = dy·γ: dx = rstd·(g − mean(g) − x̂·mean(g·x̂)), where rms_norm has no mean(g).
template <bool kCentred>
struct Gradient {
  float mean, rstd, mean_g, mean_gx;
  template <class T, int V>
  __device__ Vector<T, V> operator()(const Vector<float, V>& dy, const Vector<float, V>& x,
                                     const Vector<float, V>& gamma) const {
    Vector<float, V> dx;
#pragma unroll
    for (int e = 0; e < V; ++e) {
      const float g = kCentred ? fmaf(dy[e], gamma[e], -mean_g) : dy[e] * gamma[e];
      dx[e] = rstd * fmaf(-(x[e] - mean) * rstd, mean_gx, g);
    }
    return narrowed<T>(dx);
  }
};
// before + dx, of the rounded dx.
template <class T, int V>
__device__ Vector<T, V> added(const Vector<float, V>& before, const Vector<T, V>& dx) {
  Vector<float, V> sum = unpacked<T>(words_of<T>(dx));
#pragma unroll
  for (int e = 0; e < V; ++e) sum[e] = __fadd_rn(before[e], sum[e]);  // never fused
  return narrowed<T>(sum);
}
template <class T, class Tile, int kMatrices>
using RowsOf =
    std::conditional_t<Tile::kWhole, RowsAhead<T, Tile, kMatrices>, RowsInTurn<T, Tile, kMatrices>>;

// Shared memory of a block: rows on their way, then its row parts' sums.
template <class T, class Tile, int kMatrices>
constexpr std::size_t shared_bytes() {
  const std::size_t rows = RowsOf<T, Tile, kMatrices>::kBytes;
  const std::size_t sums =
      Tile::kRows > 1 ? sizeof(float) * Tile::kBlock * Tile::kHeld * kVector<T> : 0;
  return rows > sums ? rows : sums;
}

// Σ over the block's row parts, the last one first, to a line of `cols`; thread t of a part has
// columns like for_row_vectors.
template <class T, class Tile, int kSlots>
__device__ void write_line(float* to, int cols, const float (&sum)[kSlots], float* parts) {
  constexpr int V = kVector<T>;
  if constexpr (Tile::kRows == 1) {
    for_row_vectors<T, Tile>(cols, [&](int j, int at) {
#pragma unroll
      for (int e = 0; e < V; ++e)
        if (at + e < cols) to[at + e] = sum[j * V + e];
    });
  } else {
    __syncthreads();  // what was there has been read
#pragma unroll
    for (int i = 0; i < kSlots; ++i) parts[i * Tile::kBlock + threadIdx.x] = sum[i];
    __syncthreads();
    for (int q = static_cast<int>(threadIdx.x); q < Tile::kThreads * kSlots; q += Tile::kBlock) {
      const int i = q / Tile::kThreads, thread = q % Tile::kThreads;
      const float* const of = parts + i * Tile::kBlock + thread;
      float total = of[(Tile::kRows - 1) * Tile::kThreads];
#pragma unroll
      for (int p = Tile::kRows - 2; p >= 0; --p) total = of[p * Tile::kThreads] + total;
      const int column = (i / V * Tile::kThreads + thread) * V + i % V;
      if (column < cols) to[column] = total;
    }
  }
}

// A block takes `rows_of_block` rows. partial [gridDim.x, 2, cols]: Σ dy·x̂ and Σ dy over them. dx
// and partial may be null. kAdds: to `before`.
template <bool kCentred, bool kAdds, class T, class Tile>
__global__ void __launch_bounds__(Tile::kBlock, 512 / Tile::kBlock)
    backward_kernel(T* dx, float* partial, const Saved<T> s, std::int64_t rows_of_block) {
  constexpr int V = kVector<T>, kSlots = Tile::kHeld * V, kMatrices = kAdds ? 3 : 2;
  constexpr int kDy = 0, kX = 1, kBefore = 2;
  using Rows = RowsOf<T, Tile, kMatrices>;
  extern __shared__ uint4 memory[];
  __shared__ float scratch[2][2][Tile::kBlockWarps];
  const std::int64_t begin = blockIdx.x * rows_of_block;
  const std::int64_t end = begin + rows_of_block < s.rows ? begin + rows_of_block : s.rows;
  const auto width = static_cast<float>(s.cols);
  std::int64_t row = begin + threadIdx.x / Tile::kThreads;
  const HeldRow<T, Tile> gamma(s.gamma, s.cols);
  float dgamma[kSlots] = {}, dbeta[kSlots] = {};

  const T* matrices[kMatrices] = {s.dy, s.x};
  if constexpr (kAdds) matrices[kBefore] = s.before;
  Rows rows(memory, matrices, row, s.cols);
  for (int i = 0; i < Rows::kStages; ++i) rows.request(row + i * Tile::kRows < end);
  const auto statistics = [&](std::int64_t of) {
    const bool exists = of < end;
    return float2{kCentred && exists ? s.mean[of] : 0.0f, exists ? s.rstd[of] : 0.0f};
  };
  float2 next = statistics(row);
  bool parity = false;  // a row's scratch may be read until the next row's barrier
  for (std::int64_t first = begin; first < end;
       first += Tile::kRows, row += Tile::kRows, parity = !parity) {
    const int n = row < end ? s.cols : 0;
    const auto [mu, inverse] = next;
    next = statistics(row + Tile::kRows);
    if (Rows::kStages == 0) rows.request(row < end);
    rows.wait();
    float sum_g = 0, sum_gx = 0;
    for_row_vectors<T, Tile>(n, [&](int j, int at) {
      const auto d = rows.get(kDy, j, at), v = rows.get(kX, j, at), w = gamma.get(j, at);
#pragma unroll
      for (int e = 0; e < V; ++e) {  // past the end d is 0
        const float hat = (v[e] - mu) * inverse, g = d[e] * w[e];
        sum_g = fmaf(d[e], w[e], sum_g);
        sum_gx = fmaf(g, hat, sum_gx);
        dgamma[j * V + e] = fmaf(d[e], hat, dgamma[j * V + e]);
        dbeta[j * V + e] += d[e];
      }
    });
    if (dx) {
      const float mean_g = kCentred ? row_sum<Tile>(sum_g, scratch[parity][0]) / width : 0.0f;
      const float mean_gx = row_sum<Tile>(sum_gx, scratch[parity][1]) / width;
      const Gradient<kCentred> gradient{mu, inverse, mean_g, mean_gx};
      for_row_vectors<T, Tile>(n, [&](int j, int at) {
        auto y = gradient.template operator()<T>(rows.get(kDy, j, at), rows.get(kX, j, at),
                                                 gamma.get(j, at));
        if constexpr (kAdds) y = added(rows.get(kBefore, j, at), y);
        store_row_part<T, Tile>(dx + row * s.cols, at, n, y);
      });
    }
    if (Rows::kStages > 0) rows.request(row + Rows::kStages * Tile::kRows < end);
  }
  if (!partial) return;
  float* const line = partial + blockIdx.x * std::int64_t{2} * s.cols;
  auto* const parts = reinterpret_cast<float*>(memory);
  write_line<T, Tile>(line, s.cols, dgamma, parts);
  write_line<T, Tile>(line + s.cols, s.cols, dbeta, parts);
}

// Rows of any length: dx alone.
template <bool kCentred, class T, class Tile>
__global__ void __launch_bounds__(Tile::kBlock) long_gradient_kernel(T* dx, const Saved<T> s) {
  __shared__ float scratch[2][Tile::kBlockWarps];
  const std::int64_t first = blockIdx.x * std::int64_t{s.cols};
  const Row<T, Tile> dy(s.dy + first, s.cols), x(s.x + first, s.cols), gamma(s.gamma, s.cols);
  const Row<T, Tile> before(s.before + (s.before ? first : 0), s.before ? s.cols : 0);
  const auto width = static_cast<float>(s.cols);
  const float mu = kCentred ? s.mean[blockIdx.x] : 0.0f, inverse = s.rstd[blockIdx.x];
  float sum_g = 0, sum_gx = 0;
  for_row_vectors<T, Tile>(s.cols, [&](int j, int at) {
    const auto d = dy.get(j, at), v = x.get(j, at), w = gamma.get(j, at);
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) {
      const float g = d[e] * w[e];
      sum_g = fmaf(d[e], w[e], sum_g);
      sum_gx = fmaf(g, (v[e] - mu) * inverse, sum_gx);
    }
  });
  const float mean_g = kCentred ? row_sum<Tile>(sum_g, scratch[0]) / width : 0.0f;
  const float mean_gx = row_sum<Tile>(sum_gx, scratch[1]) / width;
  const Gradient<kCentred> gradient{mu, inverse, mean_g, mean_gx};
  for_row_vectors<T, Tile>(s.cols, [&](int j, int at) {
    auto y = gradient.template operator()<T>(dy.get(j, at), x.get(j, at), gamma.get(j, at));
    if (s.before) y = added(before.get(j, at), y);
    store_row_part<T, Tile>(dx + first, at, s.cols, y);
  });
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

// Adds the sums of [dgamma | dbeta] to gradients that may be wider than x, or null; fresh ones
// count as zeros (not the sums themselves: 0 + −0 is 0).
struct AddToGradients {
  void* to[2];
  bool wide[2];
  bool accumulate;
  std::int64_t cols;
  __device__ void operator()(std::int64_t i, float sum) const {
    const int which = i >= cols;
    const std::int64_t c = i - which * cols;
    if (!to[which]) return;
    if (wide[which]) {
      auto* d = static_cast<float*>(to[which]);
      d[c] = (accumulate ? d[c] : 0.0f) + sum;
    } else {
      auto* d = static_cast<bfloat16*>(to[which]);
      d[c] = from_float<bfloat16>((accumulate ? to_float(d[c]) : 0.0f) + sum);
    }
  }
};

// Adds up `lines` lines of `width` partial sums: each warp of a block a run of them for 32 columns,
// then the runs in order.
constexpr unsigned kFoldWarps = 8;
__global__ void __launch_bounds__(kFoldWarps* kWarp)
    fold_lines_kernel(const float* partial, int lines, std::int64_t width,
                      const AddToGradients add) {
  __shared__ float runs[kFoldWarps][kWarp];
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const std::int64_t column = blockIdx.x * std::int64_t{kWarp} + lane;
  const int each = (lines + static_cast<int>(kFoldWarps) - 1) / static_cast<int>(kFoldWarps);
  const int first = static_cast<int>(warp) * each, last = ::min(first + each, lines);
  float sum = 0;
  if (column < width) {
#pragma unroll 16
    for (int k = first; k < last; ++k) sum += partial[k * width + column];
  }
  runs[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || column >= width) return;
#pragma unroll
  for (unsigned w = 1; w < kFoldWarps; ++w) sum += runs[w][lane];
  add(column, sum);
}

template <bool kCentred, class T>
void backward(const char* op, Tensor& dx, Tensor& dgamma, Tensor* dbeta, const Tensor& dy,
              const Tensor& x, const Tensor& gamma, const float* mean, const Tensor& rstd,
              const T* before = nullptr, bool accumulate = true) {
  const Saved<T> s{dy.data<T>(), x.data<T>(),        before,   gamma.data<T>(),
                   mean,         rstd.data<float>(), x.rows(), row_length(op, x)};
  AddToGradients add{{nullptr, nullptr}, {false, false}, accumulate, s.cols};
  Tensor* gradients[2] = {&dgamma, dbeta};
  for (int k = 0; k < 2; ++k) {
    if (!gradients[k] || !gradients[k]->defined()) continue;
    NIBBLE_CUDA_FLOAT_SWITCH(gradients[k]->dtype(), op, D, {
      add.to[k] = gradients[k]->data<D>();
      add.wide[k] = sizeof(D) == 4;
    });
    if (!accumulate && s.rows == 0) fill(*gradients[k], 0);
  }
  if (s.rows * s.cols == 0) return;
  const bool parameters = add.to[0] || add.to[1];
  T* gradient = dx.defined() ? dx.data<T>() : nullptr;
  const bool whole = are_whole_rows<T>(s.cols, gradient, s.dy, s.x, s.before, s.gamma);
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
      const auto run = [&](auto kernel, std::size_t shared) {
        NIBBLE_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               static_cast<int>(shared)));
        launch(kernel, static_cast<unsigned>(lines), Tile::kBlock, shared, gradient, sums, s,
               rows_of_line);
      };
      if constexpr (kCentred)
        if (before) run(backward_kernel<true, true, T, Tile>, shared_bytes<T, Tile, 3>());
      if (!before) run(backward_kernel<kCentred, false, T, Tile>, shared_bytes<T, Tile, 2>());
    } else {
      if (gradient)
        launch(long_gradient_kernel<kCentred, T, Tile>, static_cast<unsigned>(s.rows), Tile::kBlock,
               0, gradient, s);
      if (parameters)
        launch(long_lines_kernel<kCentred, T>,
               dim3(static_cast<unsigned>(ceil_div(s.cols, 256)), static_cast<unsigned>(lines)),
               256, 0, sums, s, rows_of_line);
    }
    const std::int64_t width = std::int64_t{2} * s.cols;
    if (parameters)
      launch(fold_lines_kernel, static_cast<unsigned>(ceil_div(width, kWarp)), kFoldWarps * kWarp,
             0, sums, static_cast<int>(lines), width, add);
  });
}

}  // namespace

void layer_norm_backward(Tensor& dx, Tensor& dgamma, Tensor& dbeta, const Tensor& dy,
                         const Tensor& x, const Tensor& gamma, const Tensor& mean,
                         const Tensor& rstd) {
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "layer_norm_backward", T, {
    backward<true, T>("layer_norm_backward", dx, dgamma, &dbeta, dy, x, gamma, mean.data<float>(),
                      rstd);
  });
}

void add_layer_norm_backward(Tensor& dx, Tensor& dgamma, Tensor& dbeta, const Tensor& dy,
                             const Tensor& x, const Tensor& gamma, const Tensor& mean,
                             const Tensor& rstd, const Tensor& before, bool accumulate) {
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "layer_norm_backward", T, {
    backward<true, T>("layer_norm_backward", dx, dgamma, &dbeta, dy, x, gamma, mean.data<float>(),
                      rstd, before.data<T>(), accumulate);
  });
}

void rms_norm_backward(Tensor& dx, Tensor& dgamma, const Tensor& dy, const Tensor& x,
                       const Tensor& gamma, const Tensor& rstd) {
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "rms_norm_backward", T, {
    backward<false, T>("rms_norm_backward", dx, dgamma, nullptr, dy, x, gamma, nullptr, rstd);
  });
}

}  // namespace nibble::cuda
