#include <algorithm>
#include <type_traits>

#include "ops.h"
#include "producers.cuh"

namespace nibble::spike {
namespace {

constexpr int kThreads = 256;

unsigned blocks_for(std::size_t n) {
  return unsigned(std::min<std::size_t>((n + kThreads - 1) / kThreads, 132 * 16));
}

template <class T>
__device__ T as(double x) {
  if constexpr (std::is_same_v<T, bf16>)
    return __double2bfloat16(x);
  else
    return T(x);
}
__device__ double wide(bf16 x) { return double(__bfloat162float(x)); }
__device__ double wide(float x) { return x; }
__device__ double wide(double x) { return x; }

constexpr int kScaleRows = 8;

__global__ __launch_bounds__(256) void scale_kernel(bf16* out, const std::int32_t* acc,
                                                    const float* row, const float* col,
                                                    const bf16* bias, const bf16* add, int m,
                                                    int n) {
  const int c = 8 * (int(blockIdx.x) * int(blockDim.x) + int(threadIdx.x));
  if (c >= n) return;
  float scale[8], shift[8] = {};
#pragma unroll
  for (int j = 0; j < 8; ++j) scale[j] = col[c + j];
  if (bias != nullptr) unpack8(load8(bias + c), shift);
  const int first = int(blockIdx.y) * kScaleRows;
#pragma unroll 4
  for (int i = 0; i < kScaleRows; ++i) {
    const int r = first + i;
    if (r >= m) return;
    const std::size_t at = std::size_t(r) * n + c;
    const int4 lo = __ldcs(reinterpret_cast<const int4*>(acc + at));
    const int4 hi = __ldcs(reinterpret_cast<const int4*>(acc + at) + 1);
    const int v[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
    float res[8] = {}, y[8];
    if (add != nullptr) unpack8(load8(add + at), res);
    const float s = row[r];
#pragma unroll
    for (int j = 0; j < 8; ++j) y[j] = float(v[j]) * s * scale[j] + shift[j] + res[j];
    *reinterpret_cast<uint4*>(out + at) = pack8(y);
  }
}

template <class T>
__global__ void finish_kernel(T* out, const double* value, const T* bias, const T* add,
                              std::size_t size, int n) {
  for (std::size_t i = blockIdx.x * std::size_t(kThreads) + threadIdx.x; i < size;
       i += std::size_t(gridDim.x) * kThreads) {
    double y = value[i];
    if (bias != nullptr) y += wide(bias[i % n]);
    if (add != nullptr) y += wide(add[i]);
    out[i] = as<T>(y);
  }
}

__global__ void reduce_kernel(float* out, const float* partials, int parts, int cols) {
  // 32 columns × 8 slices of the parts; the slices are added in order.
  __shared__ float slice[8][33];
  const int c = int(blockIdx.x) * 32 + int(threadIdx.x);
  const float* in = partials + std::size_t(blockIdx.y) * parts * cols;
  float s = 0;
  if (c < cols)
    for (int p = threadIdx.y; p < parts; p += 8) s += in[std::size_t(p) * cols + c];
  slice[threadIdx.y][threadIdx.x] = s;
  __syncthreads();
  if (threadIdx.y == 0 && c < cols) {
    float total = 0;
    for (int i = 0; i < 8; ++i) total += slice[i][threadIdx.x];
    out[std::size_t(blockIdx.y) * cols + c] = total;
  }
}

__global__ void dequantize_kernel(double* out, const std::int8_t* codes, ScaleView s,
                                  std::size_t size, int cols) {
  for (std::size_t i = blockIdx.x * std::size_t(kThreads) + threadIdx.x; i < size;
       i += std::size_t(gridDim.x) * kThreads) {
    const int r = int(i / cols), c = int(i % cols);
    const std::size_t at =
        std::size_t(r / s.rows) * s.row_stride + std::size_t(c / s.cols) * s.col_stride;
    out[i] = double(codes[i]) * double(s.data[at]);
  }
}

__global__ void gather_kernel(float* out, ScaleView s, int rows) {
  const int r = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (r < rows) out[r] = s.data[std::size_t(r / s.rows) * s.row_stride];
}

__device__ float normal(Bits4 b) {  // Box-Muller
  const float u = (float(b.x) + 0.5f) * 0x1p-32f, v = float(b.y) * 0x1p-32f;
  return sqrtf(-2.0f * logf(u)) * cospif(2.0f * v);
}

__global__ void fill_kernel(bf16* out, std::size_t size, int cols, Distribution d,
                            std::uint32_t seed) {
  for (std::size_t i = blockIdx.x * std::size_t(kThreads) + threadIdx.x; i < size;
       i += std::size_t(gridDim.x) * kThreads) {
    const std::uint32_t c = std::uint32_t(i % cols), r = std::uint32_t(i / cols);
    float x =
        d.deviation * normal(philox({std::uint32_t(i), std::uint32_t(i >> 32), 1, 0}, seed, 7));
    if (d.outlier_every > 0 && c % d.outlier_every == 0) x *= d.outlier_gain;
    if (d.row_sigma > 0) x *= expf(d.row_sigma * normal(philox({r, 0, 2, 0}, seed, 7)));
    out[i] = __float2bfloat16(x + d.mean);
  }
}

template <class From>
__global__ void double_kernel(double* out, const From* in, std::size_t n) {
  for (std::size_t i = blockIdx.x * std::size_t(kThreads) + threadIdx.x; i < n;
       i += std::size_t(gridDim.x) * kThreads)
    out[i] = wide(in[i]);
}

template <class T>
__global__ void error_kernel(double* sums, const T* value, const double* reference, std::size_t n) {
  double e = 0, r = 0;
  for (std::size_t i = blockIdx.x * std::size_t(kThreads) + threadIdx.x; i < n;
       i += std::size_t(gridDim.x) * kThreads) {
    const double d = wide(value[i]) - reference[i];
    e += d * d;
    r += reference[i] * reference[i];
  }
  for (int d = 16; d > 0; d /= 2) {
    e += __shfl_xor_sync(~0u, e, d);
    r += __shfl_xor_sync(~0u, r, d);
  }
  if (threadIdx.x % 32 == 0) {
    atomicAdd(sums, e);
    atomicAdd(sums + 1, r);
  }
}

__global__ void sample_kernel(int* wrong, const std::int32_t* acc, const std::int8_t* a,
                              const std::int8_t* b, int m, int n, int k, std::uint32_t seed) {
  const Bits4 at = philox({blockIdx.x, 0, 3, 0}, seed, 7);
  const int r = int(at.x % unsigned(m)), c = int(at.y % unsigned(n));
  long long sum = 0;
  for (int i = threadIdx.x; i < k; i += 32)
    sum += int(a[std::size_t(r) * k + i]) * int(b[std::size_t(c) * k + i]);
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
  if (threadIdx.x == 0 && sum != acc[std::size_t(r) * n + c]) atomicAdd(wrong, 1);
}

}  // namespace

void scale_output(bf16* out, const std::int32_t* acc, const float* row, const float* col,
                  const bf16* bias, const bf16* add, int m, int n) {
  const int vectors = n / 8, slabs = ceil_div(vectors, 256);
  const int threads = ceil_div(ceil_div(vectors, slabs), 32) * 32;
  scale_kernel<<<dim3(unsigned(ceil_div(vectors, threads)), unsigned(ceil_div(m, kScaleRows))),
                 unsigned(threads)>>>(out, acc, row, col, bias, add, m, n);
  check(cudaGetLastError());
}

template <class T>
void finish_output(T* out, const double* value, const T* bias, const T* add, int m, int n) {
  const std::size_t size = std::size_t(m) * n;
  finish_kernel<<<blocks_for(size), kThreads>>>(out, value, bias, add, size, n);
  check(cudaGetLastError());
}
template void finish_output(bf16*, const double*, const bf16*, const bf16*, int, int);
template void finish_output(double*, const double*, const double*, const double*, int, int);

void reduce_partials(float* out, const float* partials, int terms, int parts, int cols) {
  reduce_kernel<<<dim3(unsigned(ceil_div(cols, 32)), unsigned(terms)), dim3(32, 8)>>>(out, partials,
                                                                                      parts, cols);
  check(cudaGetLastError());
}

void dequantize(double* out, const std::int8_t* codes, ScaleView scales, int rows, int cols) {
  const std::size_t size = std::size_t(rows) * cols;
  dequantize_kernel<<<blocks_for(size), kThreads>>>(out, codes, scales, size, cols);
  check(cudaGetLastError());
}

void gather_row_scales(float* out, ScaleView scales, int rows) {
  gather_kernel<<<unsigned(ceil_div(rows, kThreads)), kThreads>>>(out, scales, rows);
  check(cudaGetLastError());
}

void fill_normal(bf16* out, int rows, int cols, Distribution d, std::uint32_t seed) {
  const std::size_t size = std::size_t(rows) * cols;
  fill_kernel<<<blocks_for(size), kThreads>>>(out, size, cols, d, seed);
  check(cudaGetLastError());
}

template <class From>
void to_double(double* out, const From* in, std::size_t n) {
  double_kernel<<<blocks_for(n), kThreads>>>(out, in, n);
  check(cudaGetLastError());
}
template void to_double(double*, const bf16*, std::size_t);
template void to_double(double*, const float*, std::size_t);

double ErrorNorm::relative() const { return std::sqrt(error / reference); }
double ErrorNorm::sqnr_db() const { return 10 * std::log10(reference / error); }

template <class T>
ErrorNorm error_norm(const T* value, const double* reference, std::size_t n) {
  Buffer<double> sums(2);
  sums.zero();
  error_kernel<<<blocks_for(n), kThreads>>>(sums.get(), value, reference, n);
  check(cudaGetLastError());
  const auto host = sums.host();
  return {host[0], host[1]};
}
template ErrorNorm error_norm(const bf16*, const double*, std::size_t);
template ErrorNorm error_norm(const float*, const double*, std::size_t);
template ErrorNorm error_norm(const double*, const double*, std::size_t);

int count_wrong_products(const std::int32_t* acc, const std::int8_t* a, const std::int8_t* b, int m,
                         int n, int k, int samples, std::uint32_t seed) {
  Buffer<int> wrong(1);
  wrong.zero();
  sample_kernel<<<unsigned(samples), 32>>>(wrong.get(), acc, a, b, m, n, k, seed);
  check(cudaGetLastError());
  return wrong.host()[0];
}

}  // namespace nibble::spike
