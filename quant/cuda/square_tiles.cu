// Tiles of 128 x 128 in one pass: a block holds a tile in registers, finds its range and writes its
// codes. Reads 2 or 4 bytes an element and writes 1, where ranges, scales and codes apart read x
// twice; about 9 operations an element, 17 with noise, so memory is the roof of the first. Measured
// by `nibble bench kernels`.
#include "quant/cuda/one_pass.cuh"
#include "quant/kernels.h"
#include "quant/one_pass.h"

namespace nibble::cuda {
namespace {

using namespace one_pass;

constexpr int kBlock = 256, kSide = static_cast<int>(kSquareTile);
constexpr int kAcross = kSide / 8, kDown = kBlock / kAcross, kEach = kSide / kDown;

// Thread (across, down) holds rows down + i · kDown of columns 8 · across …
template <class T, Quotients kQuotients, bool kStochastic>
__global__ void __launch_bounds__(kBlock, sizeof(T) == 2 ? 3 : 2)
    square_tiles_kernel(std::uint8_t* out, float* steps, const T* x, std::uint32_t rows,
                        std::uint32_t cols, std::uint32_t tiles_across,
                        const __grid_constant__ Rule rule,
                        const __grid_constant__ KeyedDraws keys) {
  __shared__ std::uint32_t most[kBlock / kWarp];
  const std::uint32_t tile_col = blockIdx.x % tiles_across, tile_row = blockIdx.x / tiles_across;
  const std::uint32_t col = tile_col * kSide + threadIdx.x % kAcross * 8;
  const std::uint32_t first = tile_row * kSide + threadIdx.x / kAcross;
  const std::int64_t own = std::int64_t{first} * cols + col, step = std::int64_t{kDown} * cols;
  const KeyedDraws::Stream draws = keys.stream(kStochastic);
  const auto exists = [&](int i) { return col < cols && first + i * kDown < rows; };
  // Past an edge the last row or vector once more: it changes no maximum.
  const T* const from = x + min(col, cols - 8);
  T in[kEach][8];
#pragma unroll
  for (int i = 0; i < kEach; ++i)
    load_row<8>(from + std::int64_t{min(first + i * kDown, rows - 1)} * cols, in[i]);
  extremes::Largest<T> largest;
#pragma unroll
  for (int i = 0; i < kEach; ++i) largest.add(in[i]);
  extremes::reduce_lanes(largest, kWarp);
  if (threadIdx.x % kWarp == 0) most[threadIdx.x / kWarp] = largest.most;
  __syncthreads();
  std::uint32_t all = 0;
#pragma unroll
  for (const std::uint32_t m : most) all = ::max(all, m);
  const Scale scale = rule.scale_of<kQuotients>(all);
  if (threadIdx.x == 0) steps[blockIdx.x] = scale.step;
  if (scale.usual()) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (!exists(i)) return;
      const std::int64_t at = own + i * step;
      Philox noise{};
      if constexpr (kStochastic) noise = draws.block(static_cast<std::uint64_t>(at) / 8);
      float y[8];
      widen(in[i], y);
#pragma unroll
      for (float& v : y) v = usual_quotient<kQuotients, false>(v, scale.factor, scale.inverse);
      std::uint32_t words[2];
      rule.coder.codes<kStochastic>(y, noise, words);
      store_row<2>(reinterpret_cast<std::uint32_t*>(out + at), words);
    }
    return;
  }
  const Steps<1> found{{scale.step}};
  Division<kQuotients, 1> division;
  division.set(found);
#pragma unroll 1
  for (int i = 0; i < kEach && exists(i); ++i) {
    const std::int64_t at = own + i * step;
    T again[8];  // an index of the loop would put `in` in local memory
    load_row<8>(x + at, again);
    float values[8];
    widen(again, values);
    std::uint32_t noise[8] = {};
    if constexpr (kStochastic) draw_row<8>(draws, at, noise);
    std::uint8_t codes[8];
    apply<std::uint8_t, kStochastic>(rule, found, division, values, noise, codes);
    store_row<8>(out + at, codes);
  }
}

}  // namespace

void quant_square_tiles(Tensor& codes, Tensor& scales, const Tensor& x, const QuantSpec& spec,
                        const RngKey& key) {
  const std::int64_t across = scales.size(1);
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "quantize", T, {
    with_options(spec, [&](auto quotients, auto stochastic) {
      launch(square_tiles_kernel<T, quotients.value, stochastic.value>,
             static_cast<unsigned>(scales.numel()), kBlock, 0,
             reinterpret_cast<std::uint8_t*>(codes.raw()), scales.data<float>(), x.data<T>(),
             checked_extent(x.size(0)), checked_extent(x.size(1)),
             static_cast<std::uint32_t>(across), Rule(spec), KeyedDraws(key));
    });
  });
}

}  // namespace nibble::cuda
