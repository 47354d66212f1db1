// Integers by runs along columns of what a producer makes of x (PairSource), nearest, by reciprocal
// steps. The bytes of quant_column_runs; a layer norm computes 4 operations an element more, GELU 7
// of bf16 numbers and about 25 of f32. Measured: GELU of bf16 at 75 % of a copy's bandwidth
// (tests/bench/results/2026-11-29-pair.md).
#include "quant/cuda/column_runs.cuh"
#include "quant/cuda/gelu_values.cuh"
#include "quant/source_kernels.h"
#include "tensor/cuda/norm_row.cuh"

namespace nibble::cuda {
namespace {

using namespace one_pass;

template <class T>
struct NormOf {
  const T *gamma, *beta;  // beta may be null
  const float *mean, *rstd;

  struct Columns {
    T gamma[8], beta[8];
  };
  static constexpr int kFewerBlocks = 1;
  __device__ Columns columns(std::uint32_t col) const {
    Columns c;
    load_row<8>(gamma + col, c.gamma);
#pragma unroll
    for (int j = 0; j < 8; ++j) c.beta[j] = from_float<T>(kNoShift);
    if (beta) load_row<8>(beta + col, c.beta);
    return c;
  }
  __device__ void make(T (&x)[8], std::uint32_t row, const Columns& c) const {
    const float mu = mean[row], inverse = rstd[row];
    float v[8], g[8], b[8];
    widen(x, v);
    widen(c.gamma, g);
    widen(c.beta, b);
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = norm_value(v[j], mu, inverse, g[j], b[j]);
    const Vector<T, 8> y = stored<T>(v);
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] = y[j];
  }
};

template <class T>
struct GeluOf : Itself<T> {
  __device__ void make(T (&x)[8], std::uint32_t, const typename Itself<T>::Columns&) const {
    GeluValues::make(x);
  }
};

}  // namespace

void quant_source_columns(Tensor& codes, Tensor& scales, const PairSource& source,
                          const QuantSpec& spec, const RngKey& key) {
  using enum PairSource::Kind;
  const Tensor& x = source.x;
  if (source.kind == Plain) return quant_column_runs(codes, scales, x, spec, key);
  NIBBLE_CUDA_FLOAT_SWITCH(
      x.dtype(), "quant_source_columns", T, with_column_tile(spec, x, [&](auto tile) {
        const auto encode = [&](const auto& made) {
          column_runs<T, decltype(tile), Quotients::Reciprocal, false>(codes, scales, x, made, spec,
                                                                       key);
        };
        if (source.kind == Gelu) return encode(GeluOf<T>{});
        encode(NormOf<T>{source.gamma.data<T>(),
                         source.beta.defined() ? source.beta.data<T>() : nullptr,
                         source.mean.data<float>(), source.rstd.data<float>()});
      }));
}

}  // namespace nibble::cuda
