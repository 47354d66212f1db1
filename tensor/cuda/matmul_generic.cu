// The general product of floats: any strides, any extents, one kernel. 64 × 64 tiles, 16 deep in
// shared memory, 4 × 4 sums a thread in f32 with fma in ascending k, whatever the shapes. It is for
// completeness, not speed: each fma costs half a shared-memory read, which bounds it far below the
// f32 peak.
#include "tensor/cuda/common.cuh"
#include "tensor/cuda/matmul.h"

namespace nibble::cuda {
namespace {

constexpr int kTile = 64, kDepth = 16, kSide = 16, kPer = kTile / kSide;
constexpr int kThreads = kSide * kSide;
constexpr int kPitch = kTile + 4;

// Matrices of a batch, any strides.
template <class T>
struct View {
  T* data;
  std::int64_t batch, row, col;
};
struct Extents {
  std::int64_t batch, m, n, k;
};

// slab[d][r] = element (r, d) of an operand seen as rows by depth; 0 outside. Neighbouring threads
// follow the unit stride.
template <class T>
__device__ void load_slab(float (&slab)[kDepth][kPitch], const T* x, std::int64_t row_stride,
                          std::int64_t depth_stride, std::int64_t rows, std::int64_t depth) {
  const bool along_depth = depth_stride == 1;
#pragma unroll
  for (int i = 0; i < kTile * kDepth / kThreads; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * kThreads;
    const int r = along_depth ? at / kDepth : at % kTile;
    const int d = along_depth ? at % kDepth : at / kTile;
    slab[d][r] = r < rows && d < depth ? to_float(x[r * row_stride + d * depth_stride]) : 0.0f;
  }
}

template <class Out, class In>
__global__ void __launch_bounds__(kThreads)
    matmul_kernel(View<Out> c, View<const In> a, View<const In> b, Extents e, bool accumulate) {
  __shared__ float slab_a[kDepth][kPitch], slab_b[kDepth][kPitch];
  const std::int64_t across = ceil_div(e.n, kTile), down = ceil_div(e.m, kTile);
  const std::int64_t tile = blockIdx.x;
  const std::int64_t col0 = tile % across * kTile, row0 = tile / across % down * kTile;
  const std::int64_t batch = tile / across / down;
  const In* const from_a = a.data + batch * a.batch + row0 * a.row;
  const In* const from_b = b.data + batch * b.batch + col0 * b.col;
  const int tx = static_cast<int>(threadIdx.x) % kSide, ty = static_cast<int>(threadIdx.x) / kSide;
  float sums[kPer][kPer] = {};
  for (std::int64_t k0 = 0; k0 < e.k; k0 += kDepth) {
    load_slab(slab_a, from_a + k0 * a.col, a.row, a.col, e.m - row0, e.k - k0);
    load_slab(slab_b, from_b + k0 * b.row, b.col, b.row, e.n - col0, e.k - k0);
    __syncthreads();
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      float x[kPer], y[kPer];
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        x[i] = slab_a[d][ty + i * kSide];
        y[i] = slab_b[d][tx + i * kSide];
      }
#pragma unroll
      for (int i = 0; i < kPer; ++i)
#pragma unroll
        for (int j = 0; j < kPer; ++j) sums[i][j] = __fmaf_rn(x[i], y[j], sums[i][j]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kPer; ++i)
#pragma unroll
    for (int j = 0; j < kPer; ++j) {
      const std::int64_t row = row0 + ty + i * kSide, col = col0 + tx + j * kSide;
      if (row >= e.m || col >= e.n) continue;
      Out& to = c.data[batch * c.batch + row * c.row + col * c.col];
      to = from_float<Out>(accumulate ? to_float(to) + sums[i][j] : sums[i][j]);
    }
}

template <class T>
View<T> view_of(T* data, const Tensor& x) {
  return {data, x.strides()[0], x.strides()[1], x.strides()[2]};
}

template <class Out, class In>
void run(Tensor& c, const Tensor& a, const Tensor& b, bool accumulate) {
  const Extents e{c.size(0), c.size(1), c.size(2), a.size(2)};
  const std::int64_t tiles = e.batch * ceil_div(e.m, kTile) * ceil_div(e.n, kTile);
  NIBBLE_CHECK(tiles <= INT32_MAX, "matmul", "got {}, which is too large for one launch",
               describe(c));
  launch(matmul_kernel<Out, In>, dim3(static_cast<unsigned>(tiles)), dim3(kThreads), 0,
         view_of(c.data<Out>(), c), view_of(a.data<In>(), a), view_of(b.data<In>(), b), e,
         accumulate);
}

}  // namespace

void multiply_generic(Tensor& c, const Tensor& a, const Tensor& b, bool accumulate) {
  if (c.dtype() == DType::F32 && a.dtype() == DType::BF16)
    run<float, bfloat16>(c, a, b, accumulate);
  else
    NIBBLE_CUDA_FLOAT_SWITCH(a.dtype(), "matmul", T, run<T, T>(c, a, b, accumulate));
}

}  // namespace nibble::cuda
