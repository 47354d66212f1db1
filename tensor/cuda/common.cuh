// Device-side building blocks: launches, 16-byte vectors, reductions in a fixed order, and the
// element types as kernels see them. Own and small: a CUB include would cost 12 s a unit.
#pragma once

#include <cstdint>

#include "tensor/cuda/context.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

namespace nibble::cuda {

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kFullMask = 0xffffffffu;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Launches kernel<<<grid, block, shared, stream()>>>(args...) and checks the launch.
template <class... Params, class... Args>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, std::size_t shared, Args... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  kernel<<<grid, block, shared, stream()>>>(static_cast<Params>(args)...);
  NIBBLE_CUDA_CHECK(cudaGetLastError());
}
// Blocks of a grid-stride loop over n items: enough to fill the device, never more than the items.
inline unsigned grid_for(std::int64_t n, unsigned block, int blocks_per_multiprocessor = 8) {
  const std::int64_t needed = ceil_div(n, block);
  const std::int64_t most = std::int64_t{multiprocessors()} * blocks_per_multiprocessor;
  return static_cast<unsigned>(needed < most ? needed : most);
}

// N elements that are loaded and stored at once; the address must be aligned to its size.
template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  T v[N];
  __device__ T& operator[](int i) { return v[i]; }
  __device__ const T& operator[](int i) const { return v[i]; }
};
// How many T make 16 bytes.
template <class T>
inline constexpr int kVector = 16 / static_cast<int>(sizeof(T));
template <class T, int N = kVector<T>>
__device__ Vector<T, N> load_vector(const T* p) {
  return *reinterpret_cast<const Vector<T, N>*>(p);
}
template <class T, int N>
__device__ void store_vector(T* p, const Vector<T, N>& x) {
  *reinterpret_cast<Vector<T, N>*>(p) = x;
}
inline bool is_aligned(const void* p, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(p) % bytes == 0;
}

// bfloat16 (float_types.h) has the bits of __nv_bfloat16 and the same rounding; kernels compute in
// f32: compute_t<T>.
template <class T>
__device__ float to_float(T x) {
  return static_cast<float>(x);
}
template <class T>
__device__ T from_float(float x) {
  return static_cast<T>(x);
}

// Butterfly reductions: every lane gets the same bits, in an order that depends on nothing.
template <class T, class F>
__device__ T warp_reduce(T x, F f) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x = f(x, __shfl_xor_sync(kFullMask, x, lane));
  return x;
}
template <class T>
__device__ T warp_sum(T x) {
  return warp_reduce(x, [](T a, T b) { return a + b; });
}
// NaN wins, as on the CPU.
__device__ inline float max_keeping_nan(float a, float b) { return b > a || b != b ? b : a; }
__device__ inline float warp_max(float x) {
  return warp_reduce(x, [](float a, float b) { return max_keeping_nan(a, b); });
}
// Over a block whose threads all call it; `scratch` holds one T a warp (32 do). All threads get it.
template <class T, class F>
__device__ T block_reduce(T x, T identity, F f, T* scratch) {
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const unsigned warps = (blockDim.x + kWarp - 1) / kWarp;
  x = warp_reduce(x, f);
  __syncthreads();  // scratch may still be read from an earlier call
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  x = lane < warps ? scratch[lane] : identity;
  return warp_reduce(x, f);
}
template <class T>
__device__ T block_sum(T x, T* scratch) {
  return block_reduce(
      x, T(0), [](T a, T b) { return a + b; }, scratch);
}

// The first report since the last synchronisation stays.
__device__ inline void report_fault(Fault* f, Fault::Kind kind, std::int64_t position,
                                    std::int32_t value, std::int64_t extent) {
  if (atomicCAS(f->claimed, 0, 1) != 0) return;
  f->value = value;
  f->position = position;
  f->extent = extent;
  f->kind = kind;
}

}  // namespace nibble::cuda

// F64 lives on the CPU only (dtype.h). Runs the statement with T bound to float or bfloat16.
#define NIBBLE_CUDA_FLOAT_SWITCH(dtype, op, T, ...)                                         \
  switch (dtype) {                                                                          \
    case ::nibble::DType::F32: {                                                            \
      using T = float;                                                                      \
      __VA_ARGS__;                                                                          \
      break;                                                                                \
    }                                                                                       \
    case ::nibble::DType::BF16: {                                                           \
      using T = ::nibble::bfloat16;                                                         \
      __VA_ARGS__;                                                                          \
      break;                                                                                \
    }                                                                                       \
    default:                                                                                \
      ::nibble::fail(op, "got dtype {} on a GPU, expected f32 or bf16; f64 is for the CPU", \
                     dtype);                                                                \
  }
