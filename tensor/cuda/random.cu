// Uniform and normal draws and dropout. Draws write 4 bytes an element; a Philox block (some 60
// integer operations) serves 4 of them, a normal pair adds about 60 f64 operations, which makes
// normals compute-bound. Dropout moves each element once each way; a block serves 8 elements.
// Bits are the CPU's: same formulas (rng.h, normal_math.h), element i from the key and i alone.
#include "tensor/cuda/elementwise.cuh"
#include "tensor/kernels.h"
#include "tensor/normal_math.h"

namespace nibble::cuda {
namespace {

constexpr unsigned kBlock = 256;

__device__ Philox philox_block(const RngKey& key, std::uint32_t step, std::int64_t block) {
  return philox4x32_10(static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                       key.site, step, key.seed);
}

struct Uniform {
  double low, width;
  float last;
  __device__ Vector<float, 4> operator()(const Philox& p) const {
    Vector<float, 4> out;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const auto u =
          static_cast<float>(std::fma(width, static_cast<double>(uniform01(p.v[j])), low));
      out[j] = last < u ? last : u;
    }
    return out;
  }
};

struct Normal {
  double mean, stddev;
  __device__ Vector<float, 4> operator()(const Philox& p) const {
    Vector<float, 4> out;
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
      const scalar::NormalPair z = scalar::box_muller(p.v[j], p.v[j + 1]);
      out[j] = static_cast<float>(std::fma(stddev, z.first, mean));
      out[j + 1] = static_cast<float>(std::fma(stddev, z.second, mean));
    }
    return out;
  }
};

// A thread makes the four elements of a Philox block.
template <class F>
__global__ void __launch_bounds__(kBlock)
    draw_kernel(float* y, std::int64_t n, bool aligned, RngKey key, F f) {
  const std::uint32_t step = key.step_value();
  const std::int64_t stride = std::int64_t{gridDim.x} * kBlock;
  for (std::int64_t b = std::int64_t{blockIdx.x} * kBlock + threadIdx.x; 4 * b < n; b += stride) {
    const Vector<float, 4> out = f(philox_block(key, step, b));
    if (aligned && 4 * b + 4 <= n) {
      store_vector(y + 4 * b, out);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (4 * b + j < n) y[4 * b + j] = out[j];
    }
  }
}

template <class F>
void draw(Tensor& y, const RngKey& key, F f) {
  float* out = y.data<float>();
  const std::int64_t n = y.numel();
  launch(draw_kernel<F>, grid_for(ceil_div(n, 4), kBlock), kBlock, 0, out, n, is_aligned(out, 16),
         key, f);
}

// A thread serves the eight elements of a Philox block.
template <class T>
__global__ void __launch_bounds__(kBlock)
    dropout_kernel(T* y, const T* x, std::int64_t n, bool aligned, std::uint32_t threshold,
                   float scale, RngKey key) {
  const Draws16 draws(key, key.step_value());
  const std::int64_t stride = std::int64_t{gridDim.x} * kBlock;
  for (std::int64_t b = std::int64_t{blockIdx.x} * kBlock + threadIdx.x; 8 * b < n; b += stride) {
    const std::int64_t begin = 8 * b;
    if (aligned && begin + 8 <= n) {
      constexpr int N = kVector<T>;
      Vector<T, N> v[8 / N];
#pragma unroll
      for (int k = 0; k < 8 / N; ++k) v[k] = load_vector<T, N>(x + begin + k * N);
      const Philox p = draws.block(static_cast<std::uint64_t>(b));
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        T& e = v[j / N][j % N];
        e = Draws16::pick(p, j) >= threshold ? from_float<T>(to_float(e) * scale) : T(0.0f);
      }
#pragma unroll
      for (int k = 0; k < 8 / N; ++k) store_vector<T, N>(y + begin + k * N, v[k]);
    } else {
      const Philox p = draws.block(static_cast<std::uint64_t>(b));
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (const std::int64_t i = begin + j; i < n)
          y[i] = Draws16::pick(p, j) >= threshold ? from_float<T>(to_float(x[i]) * scale) : T(0.0f);
    }
  }
}

}  // namespace

void random_uniform(Tensor& y, double low, double high, const RngKey& key) {
  // Rounding to f32 must not reach `high`: the interval is half open.
  const auto lo = static_cast<float>(low), hi = static_cast<float>(high);
  draw(y, key, Uniform{low, high - low, high > low ? std::nextafter(hi, lo) : hi});
}

void random_normal(Tensor& y, double mean, double stddev, const RngKey& key) {
  draw(y, key, Normal{mean, stddev});
}

void dropout(Tensor& y, const Tensor& x, double p, const RngKey& key) {
  const auto threshold = static_cast<std::uint32_t>(std::lround(p * 65536.0));
  const float scale = p < 1 ? static_cast<float>(1.0 / (1.0 - p)) : 0.0f;
  const std::int64_t n = y.numel();
  NIBBLE_CUDA_FLOAT_SWITCH(y.dtype(), "dropout", T, {
    T* out = y.data<T>();
    const T* in = x.data<T>();
    launch(dropout_kernel<T>, grid_for(ceil_div(n, 8), kBlock), kBlock, 0, out, in, n,
           is_aligned(out, 16) && is_aligned(in, 16), threshold, scale, key);
  });
}

}  // namespace nibble::cuda
