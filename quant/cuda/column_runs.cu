// Runs along columns in one pass, for codes of the transpose: a block holds kRun rows of 64 columns
// in registers, finds each column's range, and turns the codes in shared memory. Reads 2 or 4 bytes
// an element and writes 1, where ranges, scales, codes and the transposition apart move 7; about 20
// operations an element, 30 with noise.
#include "quant/cuda/one_pass.cuh"
#include "quant/kernels.h"

namespace nibble::cuda {
namespace {

using namespace one_pass;

constexpr unsigned kBlock = 256;
constexpr std::uint32_t kCols = 64, kAcross = kCols / 8, kDown = kBlock / kAcross;  // threads

// Thread (across, down) holds rows kEach · down … of columns 8 · across …
template <class T, int kRun, Quotients kQuotients, bool kStochastic>
__global__ void __launch_bounds__(kBlock)
    column_runs_kernel(std::uint8_t* out, float* steps, const T* x, std::uint32_t rows,
                       std::uint32_t cols, std::uint32_t runs, const __grid_constant__ Rule rule,
                       const RngKey key) {
  constexpr int kEach = kRun / static_cast<int>(kDown), kWords = kEach / 4;
  constexpr std::uint32_t kPitch = kRun / 4 + 1;  // words of a column, odd
  __shared__ std::uint32_t most[kDown][kCols + 8];
  __shared__ float found[kCols];
  __shared__ std::uint32_t turned[kCols][kPitch];
  const std::uint32_t across = threadIdx.x % kAcross, down = threadIdx.x / kAcross;
  const std::uint32_t run = blockIdx.x % runs, col0 = blockIdx.x / runs * kCols;
  const std::uint32_t row0 = run * kRun, last = min(row0 + kRun, rows) - 1;
  const std::uint32_t col = min(col0 + across * 8, cols - 8);
  const Draws16 draws(key, kStochastic ? key.step_value() : 0);

  T in[kEach][8];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    // Past the end the last row once more: it changes no maximum.
    const std::uint32_t row = min(row0 + down * kEach + i, last);
    load_row<8>(x + std::int64_t{row} * cols + col, in[i]);
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    extremes::Largest<T> largest;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const T one[1] = {in[i][j]};
      largest.add(one);
    }
    most[down][across * 8 + j] = largest.most;
  }
  __syncthreads();
  if (threadIdx.x < kCols) {
    std::uint32_t all = 0;
#pragma unroll
    for (std::uint32_t i = 0; i < kDown; ++i) all = ::max(all, most[i][threadIdx.x]);
    const float step = rule.of_largest(all);
    found[threadIdx.x] = step;
    if (col0 + threadIdx.x < cols) steps[std::int64_t{col0 + threadIdx.x} * runs + run] = step;
  }
  __syncthreads();
  Steps<8> step;
#pragma unroll
  for (int j = 0; j < 8; ++j) step.step_[j] = found[across * 8 + j];
  Division<kQuotients, 8> division;
  division.set(step);
#pragma unroll
  for (int w = 0; w < kWords; ++w) {
    std::uint32_t words[8] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float values[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) values[j] = to_float(in[w * 4 + i][j]);
      std::uint32_t noise[8] = {};
      if constexpr (kStochastic)
        draw_row<8>(draws, std::int64_t{row0 + down * kEach + w * 4 + i} * cols + col, noise);
      std::uint8_t codes[8];
      apply<std::uint8_t, kStochastic>(rule, step, division, values, noise, codes);
#pragma unroll
      for (int j = 0; j < 8; ++j) words[j] |= std::uint32_t{codes[j]} << (8 * i);
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) turned[across * 8 + j][down * kWords + w] = words[j];
  }
  __syncthreads();
  const std::uint32_t words = (last - row0 + 1) / 4, width = min(kCols, cols - col0);
  for (std::uint32_t i = threadIdx.x; i < kCols * (kRun / 4); i += kBlock) {
    const std::uint32_t c = i / (kRun / 4), w = i % (kRun / 4);
    if (c < width && w < words)
      reinterpret_cast<std::uint32_t*>(out + std::int64_t{col0 + c} * rows + row0)[w] =
          turned[c][w];
  }
}

template <class T, int kRun>
void column_runs(Tensor& codes, Tensor& scales, const Tensor& x, const QuantSpec& spec,
                 const RngKey& key) {
  const std::int64_t rows = x.size(0), cols = x.size(1), runs = ceil_div(rows, kRun);
  with_options(spec, [&](auto quotients, auto stochastic) {
    launch(column_runs_kernel<T, kRun, decltype(quotients)::value, decltype(stochastic)::value>,
           dim3(static_cast<unsigned>(runs * ceil_div(cols, kCols))), dim3(kBlock), 0,
           reinterpret_cast<std::uint8_t*>(codes.raw()), scales.data<float>(), x.data<T>(),
           checked_extent(rows), checked_extent(cols), static_cast<std::uint32_t>(runs), Rule(spec),
           key);
  });
}

}  // namespace

void quant_column_runs(Tensor& codes, Tensor& scales, const Tensor& x, const QuantSpec& spec,
                       const RngKey& key) {
  const bool longer = spec.resolve(x.size(1), x.size(0)).cols == 256;
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "quantize", T,
                           longer ? column_runs<T, 256>(codes, scales, x, spec, key)
                                  : column_runs<T, 128>(codes, scales, x, spec, key));
}

}  // namespace nibble::cuda
