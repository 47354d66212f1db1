// A layer norm, or that of a sum, that leaves as codes by row: statistics, values, range, step and
// codes while the row lies in registers. Reads 2 bytes an element in bf16 and writes 1; with a
// residual it reads 4 and writes 3. About 16 operations an element, so memory is the roof.
// Measured: tests/bench/results/2026-11-29-norms.md.
#include "quant/cuda/one_pass.cuh"
#include "quant/source_kernels.h"
#include "tensor/cuda/norm_row.cuh"

namespace nibble::cuda {
namespace {

using namespace one_pass;

template <class T>
struct NormRows {
  std::uint8_t* codes;
  float *steps, *mean, *rstd;
  const T *x, *residual, *gamma, *beta;  // residual and beta may be null
  T* sum;
  std::int64_t rows;
  int cols;
  float epsilon;
};

constexpr int kGroup = 128;  // columns of a scale, unless the row has one

// A vector's codes: one word or two.
template <class T>
using Codes = Vector<std::uint32_t, kVector<T> / 4>;

// Of a run that is not usual.
template <class T>
__device__ __noinline__ Codes<T> unusual_codes(uint4 y, float found, const Rule& rule) {
  constexpr int V = kVector<T>;
  const Steps<1> step{{found}};
  Division<Quotients::Reciprocal, 1> division;
  division.set(step);
  const Vector<float, V> values = unpacked<T>(y);
  const std::uint32_t noise[V] = {};
  std::uint8_t codes[V];
  apply<std::uint8_t, false>(rule, step, division, values.v, noise, codes);
  Codes<T> words{};
#pragma unroll
  for (int e = 0; e < V; ++e) words[e / 4] |= std::uint32_t{codes[e]} << (e % 4 * 8);
  return words;
}

// Of a usual one.
template <class T>
__device__ Codes<T> usual_codes(uint4 y, float inverse, const Rule& rule) {
  const auto values = unpacked<T>(y);
  Codes<T> words;
#pragma unroll
  for (int w = 0; w < kVector<T> / 4; ++w) {
    std::uint32_t c[4];
#pragma unroll
    for (int k = 0; k < 4; ++k)
      c[k] = rule.coder.code<false>(codec::mul(values[4 * w + k], inverse), Philox{}, k);
    words[w] = low_bytes(c[0], c[1], c[2], c[3]);
  }
  return words;
}

// The largest magnitude among vectors, bf16 in pairs of 16-bit halves.
template <class T>
struct LargestWords {
  std::uint32_t most = 0;
  __device__ void add(uint4 y) {
    for (const std::uint32_t w : {y.x, y.y, y.z, y.w})
      if constexpr (sizeof(T) == 2)
        most = __vmaxu2(most, w & 0x7fff7fffu);
      else
        most = ::max(most, w & 0x7fffffffu);
  }
  // As the bits of an f32, over `lanes` neighbours.
  __device__ std::uint32_t of_lanes(unsigned lanes) const {
    extremes::Largest<T> all;
    all.set(0, sizeof(T) == 2 ? ::max(most & 0xffff0000u, most << 16) : most);
    extremes::reduce_lanes(all, lanes);
    return all.most;
  }
};

template <bool kGrouped, class T, class Tile>
__device__ void encode_row(const NormRows<T>& a, const HeldRow<T, Tile>& in, std::int64_t row,
                           int n, const Rule& rule) {
  constexpr int V = kVector<T>, kHeld = Tile::kHeld, kRuns = kGrouped ? kHeld : 1;
  __shared__ float scratch[2][Tile::kBlockWarps];
  __shared__ std::uint32_t warp_most[Tile::kBlockWarps];
  const auto [mu, inverse] = norm_statistics<true, T, Tile>(in, n, a.cols, a.epsilon, scratch);
  const HeldRow<T, Tile> gamma(a.gamma, n), beta(a.beta, n, kNoShift);
  uint4 y[kHeld];
  LargestWords<T> largest[kRuns];
  for_row_vectors<T, Tile>(n, [&, mu = mu, inverse = inverse](int j, int at) {
    const auto v = in.get(j, at), g = gamma.get(j, at), b = beta.get(j, at);
    Vector<float, V> value;
#pragma unroll
    for (int e = 0; e < V; ++e) value[e] = norm_value(v[e], mu, inverse, g[e], b[e]);
    y[j] = words_of<T>(narrowed<T>(value));
    largest[kGrouped ? j : 0].add(y[j]);
  });

  Scale scale[kRuns];
#pragma unroll
  for (int j = 0; j < kRuns; ++j) {
    std::uint32_t most = largest[j].of_lanes(kGrouped ? kGroup / V : kWarp);
    if constexpr (!kGrouped && Tile::kWarps > 1) {
      const unsigned warp = threadIdx.x / kWarp;
      if (threadIdx.x % kWarp == 0) warp_most[warp] = most;
      __syncthreads();
#pragma unroll
      for (int w = 0; w < Tile::kWarps; ++w)
        most = ::max(most, warp_most[warp / Tile::kWarps * Tile::kWarps + w]);
    }
    scale[j] = rule.scale_of<Quotients::Reciprocal>(most);
  }

  for_row_vectors<T, Tile>(n, [&](int j, int at) {
    const Scale& s = scale[kGrouped ? j : 0];
    store_vector(
        reinterpret_cast<std::uint32_t*>(a.codes + row * a.cols + at),
        s.usual() ? usual_codes<T>(y[j], s.inverse, rule) : unusual_codes<T>(y[j], s.step, rule));
    if constexpr (kGrouped)
      if (at % kGroup == 0) a.steps[row * (a.cols / kGroup) + at / kGroup] = s.step;
  });
  if (n > 0 && Tile::thread() == 0) {
    a.mean[row] = mu;
    a.rstd[row] = inverse;
    if constexpr (!kGrouped) a.steps[row] = scale[0].step;
  }
}

template <bool kAdds, bool kGrouped, class T, class Tile>
__global__ void __launch_bounds__(Tile::kBlock)
    norm_rows_kernel(const NormRows<T> a, const __grid_constant__ Rule rule) {
  const std::int64_t row = Tile::row(), at = row * a.cols;
  const int n = row < a.rows ? a.cols : 0;
  if constexpr (kAdds)
    encode_row<kGrouped, T, Tile>(a, HeldRow<T, Tile>(a.sum + at, a.x + at, a.residual + at, n),
                                  row, n, rule);
  else
    encode_row<kGrouped, T, Tile>(a, HeldRow<T, Tile>(a.x + at, n), row, n, rule);
}

}  // namespace

void quant_norm_rows(Tensor& codes, Tensor& scales, const PairSource& s, const QuantSpec& spec) {
  const bool grouped = spec.resolve(s.x.size(0), s.x.size(1)).cols != s.x.size(1);
  NIBBLE_CUDA_FLOAT_SWITCH(s.x.dtype(), "quant_norm_rows", T, {
    const auto address = [](const Tensor& x) {
      return x.defined() ? const_cast<T*>(x.data<T>()) : nullptr;
    };
    const auto statistics = [](const Tensor& x) { return const_cast<float*>(x.data<float>()); };
    const bool adds = s.kind == PairSource::Kind::AddLayerNorm;
    const NormRows<T> a{.codes = reinterpret_cast<std::uint8_t*>(codes.raw()),
                        .steps = scales.data<float>(),
                        .mean = statistics(s.mean),
                        .rstd = statistics(s.rstd),
                        .x = s.x.data<T>(),
                        .residual = adds ? address(s.residual) : nullptr,
                        .gamma = s.gamma.data<T>(),
                        .beta = address(s.beta),
                        .sum = adds ? address(s.sum) : nullptr,
                        .rows = s.x.size(0),
                        .cols = row_length("quant_norm_rows", s.x),
                        .epsilon = static_cast<float>(s.epsilon)};
    with_row_tile_of<T, true>(a.cols, [&](auto tile) {
      using Tile = decltype(tile);
      if constexpr (Tile::kHeld > 0) {
        const auto run = [&](auto kernel) {
          launch(kernel, Tile::blocks(a.rows), Tile::kBlock, 0, a, Rule(spec));
        };
        if (adds)
          grouped ? run(norm_rows_kernel<true, true, T, Tile>)
                  : run(norm_rows_kernel<true, false, T, Tile>);
        else
          grouped ? run(norm_rows_kernel<false, true, T, Tile>)
                  : run(norm_rows_kernel<false, false, T, Tile>);
      }
    });
  });
}

}  // namespace nibble::cuda
