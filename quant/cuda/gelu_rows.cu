// Integers by runs along rows of what GELU makes of x, nearest, by reciprocal steps: quant_pair
// where only codes by row are wanted, whose maxima then need no other block. The bytes of
// quant_row_runs; of bf16 numbers 7 operations an element more, two of them the hardware's special
// functions. Measured: 89 % of a copy's bandwidth (tests/bench/results/2026-11-29-pair.md).
#include "quant/cuda/gelu_rows.h"

#include "quant/cuda/gelu_values.cuh"
#include "quant/cuda/row_runs.cuh"

namespace nibble::cuda {

void gelu_row_runs(Tensor& codes, Tensor& scales, const Tensor& x, const QuantSpec& spec) {
  using namespace one_pass;
  const int vectors = run_vectors(x, spec);
  auto* const out = reinterpret_cast<std::uint8_t*>(codes.raw());
  NIBBLE_CUDA_FLOAT_SWITCH(
      x.dtype(), "quant_pair", T, with_lanes(vectors, [&](auto lanes, auto each) {
        run<std::uint8_t, T, lanes.value, each.value, Quotients::Reciprocal, false, IntCodes,
            GeluValues>(out, scales.data<float>(), x, vectors, spec, RngKey{});
      }));
}

}  // namespace nibble::cuda
