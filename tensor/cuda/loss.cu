// Cross-entropy of rows. The forward reads the logits once (2 or 4 bytes each): a thread keeps a
// running maximum and sum and rescales once in four vectors. The backward reads and writes them
// once, elementwise, in place if asked. Both at once keep a row of bf16 (50,304 are 98 KB) in
// shared memory between its two sweeps, so that it is read and written once, 4 bytes an element;
// about 14 operations and two exponentials (16 a clock) each. All are bound by memory for bf16; the
// f32 ones spend more on the exponential, which is the CPU's. Rows need not be aligned: an odd
// vocabulary costs a second load of each 16 bytes, which the first-level cache serves. Measured:
// tests/bench/results/2026-11-29-classifier.md.
#include "tensor/cuda/loss.cuh"
#include "tensor/cuda/matrix_loads.cuh"
#include "tensor/kernels.h"

namespace nibble::cuda {
namespace {

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kBlock)
    forward_kernel(float* losses, float* lse, const T* logits, const std::int32_t* targets,
                   std::int64_t rows, int cols) {
  __shared__ float scratch[3][Tile::kBlockWarps];
  const std::int64_t row = Tile::row();
  const int n = row < rows ? cols : 0;
  const T* from = logits + row * cols;
  const loss::Statistics found = loss::statistics_of<T, Tile, false>(
      n, -1, scratch,
      [&](std::int64_t first, auto& x) { loss::load_batch<T, Tile>(from, n, first, x); });
  if (n == 0 || Tile::thread() != 0) return;
  const int target = loss::column_of(targets[row], n);
  lse[row] = found.lse;
  losses[row] = target < 0 ? 0.0f : found.lse - to_float(from[target]);
}

// Rows of whole bf16 vectors that shared memory holds: each thread copies the vectors that it will
// sweep over twice, so only the reductions are a matter of the block.
constexpr int kMostBatches = 4;
template <class Tile>
constexpr int kBatchColumns = loss::kAtOnce* Tile::kThreads* kVector<bfloat16>;

template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock, 2)
    resident_kernel(float* losses, bfloat16* logits, const std::int32_t* targets,
                    const float* scale, std::int64_t rows, int cols) {
  using T = bfloat16;
  constexpr int V = kVector<T>, kStep = Tile::kThreads * V;
  static_assert(Tile::kRows == 1 && Tile::kWhole);
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ float scratch[3][Tile::kBlockWarps];
  T* const held = reinterpret_cast<T*>(memory);
  // The product wrote the last rows last: they may still lie in the second-level cache.
  const std::int64_t row = rows - 1 - blockIdx.x;
  T* const to = logits + row * cols;
  const int target = loss::column_of(targets[row], cols);
  if (target < 0) {
    for (int at = Tile::thread() * V; at < cols; at += kStep) store_vector(to + at, Vector<T, V>{});
    if (Tile::thread() == 0) losses[row] = 0;
    return;
  }
#pragma unroll
  for (int batch = 0; batch < kMostBatches; ++batch) {
#pragma unroll
    for (int j = 0; j < loss::kAtOnce; ++j) {
      const int at = batch * kBatchColumns<Tile> + j * kStep + Tile::thread() * V;
      if (at < cols) copy_async(shared_address(held + at), to + at, 16);
    }
    commit_copies();
  }
  const loss::Statistics found =
      loss::statistics_of<T, Tile, false>(cols, -1, scratch, [&](std::int64_t first, auto& x) {
        switch (first / kBatchColumns<Tile>) {
          case 0: wait_for_copies<3>(); break;
          case 1: wait_for_copies<2>(); break;
          case 2: wait_for_copies<1>(); break;
          default: wait_for_copies<0>();
        }
        loss::load_batch<T, Tile>(held, cols, first, x);
      });
  const loss::Gradient<T> gradient(found.lse, *scale);
  for (int at = Tile::thread() * V; at < cols; at += kStep) {
    Vector<float, V> y = widened<T>(load_vector(held + at));
    gradient.apply(y);
    store_vector(to + at, narrowed<T>(y));
  }
  if (target / V % Tile::kThreads != Tile::thread()) return;  // else this thread stored it
  const float x = to_float(held[target]);
  to[target] = from_float<T>(gradient.at_target(x));
  losses[row] = found.lse - x;
}

struct BackwardInputs {
  const std::int32_t* targets;
  const float* lse;
  const float* scale;
  std::int64_t rows, cols;
};

template <class T>
struct RowGradient {
  loss::Gradient<T> gradient;
  int column;  // of the target
  bool ignored;

  __device__ RowGradient(const BackwardInputs& in, std::int64_t row)
      : gradient(in.lse[row], *in.scale),
        column(loss::column_of(in.targets[row], static_cast<int>(in.cols))),
        ignored(column < 0) {}
  template <int N>
  __device__ void apply(Vector<float, N>& x) const {
    if (ignored)
      x = {};
    else
      gradient.apply(x);
  }
};

constexpr int kVectorsOfThread = 2;

// The logits as one array: V elements at once where both tensors are aligned, for rows may start
// anywhere. I counts elements.
template <int V, class T, class I>
__global__ void __launch_bounds__(256)
    gradient_kernel(T* dlogits, const T* logits, BackwardInputs in) {
  const auto n = static_cast<I>(in.rows * in.cols), cols = static_cast<I>(in.cols);
  const I first = (static_cast<I>(blockIdx.x) * (256 * kVectorsOfThread) + threadIdx.x) * V;
  Vector<T, V> x[kVectorsOfThread];
#pragma unroll
  for (int k = 0; k < kVectorsOfThread; ++k)
    if (const I i = first + k * 256 * V; i + V <= n) x[k] = load_vector<T, V>(logits + i);
#pragma unroll
  for (int k = 0; k < kVectorsOfThread; ++k) {
    const I i = first + k * 256 * V;
    if (i >= n) return;
    I row = i / cols, at = i - row * cols;
    RowGradient<T> row_gradient(in, row);
    if (V > 1 && at + V <= cols) {
      const std::int64_t ahead = row_gradient.column - static_cast<std::int64_t>(at);
      Vector<float, kVector<T>> y{};
#pragma unroll
      for (int e = 0; e < V; ++e) y[e] = to_float(x[k][e]);
      row_gradient.apply(y);
      if (ahead >= 0 && ahead < V)
#pragma unroll
        for (int e = 0; e < V; ++e)
          if (e == ahead) y[e] = row_gradient.gradient.at_target(to_float(x[k][e]));
      *reinterpret_cast<Vector<T, kVector<T>>*>(dlogits + i) = narrowed<T>(y);
      continue;
    }
    for (I j = i; j < n && j < i + V; ++j, ++at) {  // one element, or a vector past a row's end
      if (at == cols) {
        at = 0;
        row_gradient = RowGradient<T>(in, ++row);
      }
      Vector<float, 1> y{{to_float(logits[j])}};
      if (static_cast<std::int64_t>(at) == row_gradient.column)
        y[0] = row_gradient.gradient.at_target(y[0]);
      else
        row_gradient.apply(y);
      dlogits[j] = from_float<T>(y[0]);
    }
  }
}

template <int V, class T, class I>
void launch_gradient(T* dlogits, const T* logits, const BackwardInputs& in) {
  const std::int64_t blocks = ceil_div(in.rows * in.cols, 256 * kVectorsOfThread * V);
  launch(gradient_kernel<V, T, I>, static_cast<unsigned>(blocks), 256, 0, dlogits, logits, in);
}

template <class T>
void forward(Tensor& losses, Tensor& lse, const Tensor& logits, const Tensor& targets) {
  const int cols = row_length("cross_entropy", logits);
  const T* from = logits.data<T>();
  const auto run = [&](auto tile) {
    using Tile = decltype(tile);
    launch(forward_kernel<T, Tile>, Tile::blocks(logits.rows()), Tile::kBlock, 0,
           losses.data<float>(), lse.data<float>(), from, targets.data<std::int32_t>(),
           logits.rows(), cols);
  };
  if (are_whole_rows<T>(cols, from))
    loss::with_tile<true>(cols, run);
  else
    loss::with_tile<false>(cols, run);
}

template <class Tile>
void resident(Tensor& losses, Tensor& logits, const Tensor& targets, const Tensor& scale) {
  const auto bytes = static_cast<int>(logits.cols() * 2);
  NIBBLE_CUDA_CHECK(cudaFuncSetAttribute(resident_kernel<Tile>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  launch(resident_kernel<Tile>, static_cast<unsigned>(logits.rows()), Tile::kBlock, bytes,
         losses.data<float>(), logits.data<bfloat16>(), targets.data<std::int32_t>(),
         scale.data<float>(), logits.rows(), static_cast<int>(logits.cols()));
}

}  // namespace

void cross_entropy(Tensor& losses, Tensor& lse, const Tensor& logits, const Tensor& targets) {
  NIBBLE_CUDA_FLOAT_SWITCH(logits.dtype(), "cross_entropy", T,
                           forward<T>(losses, lse, logits, targets));
}

void cross_entropy_backward(Tensor& dlogits, const Tensor& logits, const Tensor& targets,
                            const Tensor& lse, const Tensor& scale) {
  NIBBLE_CUDA_FLOAT_SWITCH(logits.dtype(), "cross_entropy", T, {
    T* to = dlogits.data<T>();
    const T* from = logits.data<T>();
    row_length("cross_entropy", logits);
    const BackwardInputs in{targets.data<std::int32_t>(), lse.data<float>(), scale.data<float>(),
                            logits.rows(), logits.cols()};
    constexpr int V = kVector<T>;
    // 32-bit divisions are the cheaper ones; the margin keeps a last block's counts from wrapping.
    const bool small = logits.numel() < (std::int64_t{1} << 31);
    if (!is_aligned(to, 16) || !is_aligned(from, 16))
      launch_gradient<1, T, std::uint64_t>(to, from, in);
    else if (small)
      launch_gradient<V, T, std::uint32_t>(to, from, in);
    else
      launch_gradient<V, T, std::uint64_t>(to, from, in);
  });
}

void cross_entropy_gradient(Tensor& losses, Tensor& logits, const Tensor& targets,
                            const Tensor& scale) {
  const std::int64_t cols = logits.cols();
  const bool whole = logits.dtype() == DType::BF16 && cols > 1024 && cols <= INT_MAX &&
                     are_whole_rows<bfloat16>(static_cast<int>(cols), logits.data<bfloat16>());
  if (whole && cols <= 16384) return resident<RowTile<8, 0, true>>(losses, logits, targets, scale);
  if (whole && cols <= kMostBatches * kBatchColumns<RowTile<16, 0, true>>)
    return resident<RowTile<16, 0, true>>(losses, logits, targets, scale);
  Tensor lse = Tensor::empty(losses.shape(), DType::F32, logits.device());
  cross_entropy(losses, lse, logits, targets);
  cross_entropy_backward(logits, logits, targets, lse, scale);
}

}  // namespace nibble::cuda
