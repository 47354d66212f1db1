// Encoding x, and encoding and decoding it in one pass: one kernel for both.
//
// Moves 2 or 4 bytes an element in and 1 (codes) or 2 or 4 (values) out; computes about 10
// operations an element, 20 with division, 10 more with stochastic rounding (a Philox block serves
// 8 elements), so all but the last two together should be bound by memory.
#pragma once

#include "quant/cuda/coder.cuh"
#include "quant/cuda/tile_steps.cuh"
#include "quant/kernels.h"
#include "tensor/cuda/draws.cuh"

namespace nibble::cuda {

// The draws of V elements from number `at` on, which V = 8 divides; Draws16 or KeyedDraws::Stream.
template <int V, class Draws>
__device__ void draw_row(const Draws& draws, std::int64_t at, std::uint32_t (&to)[V]) {
  const Philox p = draws.block(static_cast<std::uint64_t>(at) >> 3);
  if constexpr (V == 8) {
#pragma unroll
    for (int j = 0; j < V; ++j) to[j] = Draws16::pick(p, static_cast<unsigned>(j));
  } else {
    static_assert(V == 1);
    // Selected rather than indexed, which would put the block in local memory.
    const std::uint32_t low = at & 2 ? p.v[1] : p.v[0], high = at & 2 ? p.v[3] : p.v[2];
    to[0] = ((at & 4 ? high : low) >> (16 * (at & 1))) & 0xffffu;
  }
}

// `Out` is std::uint8_t for codes, else x's type for values.
template <class Out, class T, int V, int N, Quotients kQuotients, bool kStochastic, class Coder>
__global__ void __launch_bounds__(kCodeBlock)
    code_kernel(Out* out, const T* x, const MatrixWalk w, const TileSteps t,
                const __grid_constant__ KeyedDraws keys, const __grid_constant__ Coder coder) {
  constexpr bool kEncode = std::is_same_v<Out, std::uint8_t>;
  __shared__ typename Coder::Shared shared;
  coder.template prepare<kEncode ? Coding::Encode : Coding::Round, kStochastic>(shared);

  const std::uint32_t vector = blockIdx.x % w.across * blockDim.x + threadIdx.x;
  if (vector >= w.vectors) return;
  const std::uint32_t col = vector * V, tile_col = t.tile_cols.quotient(col);
  const std::uint32_t first = blockIdx.x / w.across * w.chunk;
  const std::uint32_t last = min(first + w.chunk, w.rows);
  const KeyedDraws::Stream draws = keys.stream(kStochastic);
  OwnSteps<N> own;
  Division<kQuotients, N> division;
  for (std::uint32_t next = first + threadIdx.y; next < last; next += kRowsAhead * blockDim.y) {
    T in[kRowsAhead][V];
#pragma unroll
    for (int k = 0; k < kRowsAhead; ++k) {
      // Past the end the last row once more: cheaper than merging loads that may not happen.
      const std::uint32_t row = min(next + k * blockDim.y, last - 1);
      load_row<V>(x + row * w.cols + col, in[k]);
    }
#pragma unroll
    for (int k = 0; k < kRowsAhead; ++k) {
      const std::uint32_t row = next + k * blockDim.y;
      if (row >= last) break;
      const std::int64_t at = row * w.cols + col;
      if (own.select(t, row, tile_col)) division.set(own);
      float y[V];
#pragma unroll
      for (int j = 0; j < V; ++j) y[j] = to_float(in[k][j]);
      division.template operator()<Coder::kTellsTiny>(own, y, y);
      std::uint32_t noise[V] = {};
      if constexpr (kStochastic) draw_row<V>(draws, at, noise);
      if constexpr (kEncode) {
        std::uint32_t codes[V];
        coder.template encode<kStochastic>(shared, y, noise, codes);
        Out result[V];
#pragma unroll
        for (int j = 0; j < V; ++j) result[j] = static_cast<std::uint8_t>(codes[j]);
        store_row<V>(out + at, result);
      } else {
        coder.template round<kStochastic>(shared, y, noise, y);
        own.rescale(t, y, y);
        store_values(out + at, y);
      }
    }
  }
}

template <class Out, class T>
void code_matrix(Out* out, const Tensor& x, const Tensor& steps, const Tensor& zeros,
                 const QuantSpec& spec, const RngKey& key) {
  if (x.numel() == 0) return;
  const T* in = x.data<T>();
  const TileSteps t(spec, x.size(0), x.size(1), steps, zeros);
  const bool aligned = is_aligned(in, 16) && is_aligned(out, sizeof(Out) == 1 ? 8 : 16);
  with_walk(
      t, x.size(0), x.size(1), aligned, [&](auto walked, std::int64_t rows, std::int64_t cols) {
        constexpr int kWidth = decltype(walked)::kWidth, kSteps = decltype(walked)::kSteps;
        const bool prepares = kSteps > 1 || !spec.format.is_integer();
        const MatrixWalk w(rows, cols, kWidth, prepares);
        const auto run = [&](const auto& coder, auto quotients, auto stochastic) {
          using Coder = std::decay_t<decltype(coder)>;
          constexpr Quotients kQuotients = decltype(quotients)::value;
          launch(
              code_kernel<Out, T, kWidth, kSteps, kQuotients, decltype(stochastic)::value, Coder>,
              w.grid, w.block, 0, out, in, w, t, KeyedDraws(key), coder);
        };
        with_coder(spec.format, [&](const auto& coder) {
          constexpr std::bool_constant<true> kNoise;
          constexpr std::bool_constant<false> kNearest;
          using enum Quotients;
          const bool noise = spec.rounding == Rounding::Stochastic;
          if constexpr (std::is_same_v<std::decay_t<decltype(coder)>, IntCoder>)
            if (t.bf16) return run(coder, std::integral_constant<Quotients, Bf16>{}, kNearest);
          if (spec.scaling == Scaling::Reciprocal) {
            constexpr std::integral_constant<Quotients, Reciprocal> kScaled;
            return noise ? run(coder, kScaled, kNoise) : run(coder, kScaled, kNearest);
          }
          constexpr std::integral_constant<Quotients, Divide> kDivided;
          noise ? run(coder, kDivided, kNoise) : run(coder, kDivided, kNearest);
        });
      });
}

}  // namespace nibble::cuda
