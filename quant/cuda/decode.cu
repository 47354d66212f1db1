// Codes to values. Moves 1 byte an element in and 2 or 4 out; computes a handful of operations,
// tables of values lie in shared memory. Bound by memory; measured by `nibble bench kernels`.
#include "quant/cuda/coder.cuh"
#include "quant/cuda/tile_steps.cuh"
#include "quant/kernels.h"

namespace nibble::cuda {
namespace {

// Rows that a thread loads before it works on the first of them.
constexpr int kAhead = 4;

template <class T, int V, int N, class Coder>
__global__ void __launch_bounds__(kCodeBlock)
    decode_kernel(T* y, const std::uint8_t* codes, const MatrixWalk w, const TileSteps t,
                  const __grid_constant__ Coder coder) {
  __shared__ typename Coder::Shared shared;
  coder.template prepare<Coding::Decode, false>(shared);

  const std::uint32_t vector = blockIdx.x % w.across * blockDim.x + threadIdx.x;
  if (vector >= w.vectors) return;
  const std::uint32_t col = vector * V, tile_col = t.tile_cols.quotient(col);
  const std::uint32_t first = blockIdx.x / w.across * w.chunk;
  const std::uint32_t last = min(first + w.chunk, w.rows);
  // Of eight columns each the steps change seldom; of rows they come with the codes.
  constexpr int kOwn = N == 1 ? kAhead : 1;
  OwnSteps<N> own[kOwn];
  for (std::uint32_t next = first + threadIdx.y; next < last; next += kAhead * blockDim.y) {
    std::uint8_t in[kAhead][V];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const std::uint32_t row = min(next + k * blockDim.y, last - 1);
      load_row<V>(codes + row * w.cols + col, in[k]);
      if constexpr (N == 1) own[k].load(t, t.tile_rows.quotient(row), tile_col);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const std::uint32_t row = next + k * blockDim.y;
      if (row >= last) break;
      if constexpr (N > 1) own[0].select(t, row, tile_col);
      float values[V];
#pragma unroll
      for (int j = 0; j < V; ++j) values[j] = coder.decode(shared, in[k][j]);
      own[k % kOwn].rescale(t, values, values);
      store_values(y + row * w.cols + col, values);
    }
  }
}

template <class T>
void decode(Tensor& y, const Tensor& codes, const Tensor& steps, const Tensor& zeros,
            const QuantSpec& spec) {
  if (y.numel() == 0) return;
  T* out = y.data<T>();
  const auto* in = reinterpret_cast<const std::uint8_t*>(codes.raw());
  const TileSteps t(spec, y.size(0), y.size(1), steps, zeros);
  const bool aligned = is_aligned(in, 8) && is_aligned(out, 16);
  with_walk(t, y.size(0), y.size(1), aligned,
            [&](auto walked, std::int64_t rows, std::int64_t cols) {
              constexpr int kWidth = decltype(walked)::kWidth, kSteps = decltype(walked)::kSteps;
              const bool prepares = kSteps > 1 || !spec.format.is_integer();
              const MatrixWalk w(rows, cols, kWidth, prepares, kAhead);
              with_coder(spec.format, [&](const auto& coder) {
                launch(decode_kernel<T, kWidth, kSteps, std::decay_t<decltype(coder)>>, w.grid,
                       w.block, 0, out, in, w, t, coder);
              });
            });
}

}  // namespace

void quant_decode(Tensor& y, const Tensor& codes, const Tensor& steps, const Tensor& zeros,
                  const QuantSpec& spec) {
  NIBBLE_CUDA_FLOAT_SWITCH(y.dtype(), "dequantize", T, decode<T>(y, codes, steps, zeros, spec));
}

}  // namespace nibble::cuda
