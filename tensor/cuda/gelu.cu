// GELU (tanh) and its backward form. Many bf16 numbers: by a table (gelu_table.cuh) that each block
// makes for itself, 4 bytes an element (backward 6), bound by memory. Few numbers and f32: map().
// Measured: tests/bench/results/2026-11-30-bf16.md.
#include "tensor/cuda/gelu_table.cuh"
#include "tensor/kernels.h"

namespace nibble::cuda {
namespace {

// Vectors that a thread handles at once.
template <bool kBackward>
constexpr int kTableUnroll = kBackward ? 2 : 4;

// Whole vectors. y may be x or dy.
template <bool kBackward>
__global__ void __launch_bounds__(kTableBlock, 2)
    gelu_table_kernel(uint4* y, const uint4* x, const uint4* dy, std::int64_t vectors) {
  __shared__ std::uint32_t table[kGeluEntries];
  fill_table<kBackward>(table);
  constexpr int kUnroll = kTableUnroll<kBackward>, kOnce = kTableBlock * kUnroll;
  for (std::int64_t first = std::int64_t{blockIdx.x} * kOnce + threadIdx.x; first < vectors;
       first += std::int64_t{gridDim.x} * kOnce) {
    uint4 in[kUnroll], d[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (const std::int64_t i = first + u * kTableBlock; i < vectors) {
        in[u] = x[i];
        if constexpr (kBackward) d[u] = dy[i];
      }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (const std::int64_t i = first + u * kTableBlock; i < vectors) {
        if (uint4 out; look_up<kBackward>(out, in[u], d[u], table))
          y[i] = out;
        else
          compute<kBackward>(y + i, x + i, dy + i);
      }
  }
}

// False, with nothing done, where the table does not serve.
template <bool kBackward>
bool by_table(Tensor& y, const Tensor& x, const Tensor* dy) {
  const auto words = [](const Tensor& t) { return reinterpret_cast<const uint4*>(t.raw()); };
  const std::int64_t n = y.numel();
  if (y.dtype() != DType::BF16 || n < kTableElements || n % kVector<bfloat16> != 0 ||
      !is_aligned(y.raw(), 16) || !is_aligned(x.raw(), 16) || (dy && !is_aligned(dy->raw(), 16)))
    return false;
  const std::int64_t vectors = n / kVector<bfloat16>;
  launch(gelu_table_kernel<kBackward>, grid_for(vectors, kTableBlock * kTableUnroll<kBackward>, 2),
         kTableBlock, 0, reinterpret_cast<uint4*>(y.raw()), words(x), dy ? words(*dy) : nullptr,
         vectors);
  return true;
}

}  // namespace

void gelu_tanh(Tensor& y, const Tensor& x) {
  if (by_table<false>(y, x, nullptr)) return;
  NIBBLE_CUDA_FLOAT_SWITCH(y.dtype(), "gelu", T,
                           map(y.data<T>(), y.numel(), gelu_tanh_of{}, x.data<T>()));
}
void gelu_tanh_backward(Tensor& dx, const Tensor& dy, const Tensor& x) {
  if (by_table<true>(dx, x, &dy)) return;
  NIBBLE_CUDA_FLOAT_SWITCH(
      dx.dtype(), "gelu_backward", T,
      map(dx.data<T>(), dx.numel(), gelu_tanh_backward_of{}, dy.data<T>(), x.data<T>()));
}

}  // namespace nibble::cuda
