// Integers by runs along rows.
#include "quant/cuda/row_runs.cuh"
#include "quant/kernels.h"

namespace nibble::cuda {
namespace {

using namespace one_pass;

template <class Out, class T>
void row_runs(Out* out, float* steps, const Tensor& x, const QuantSpec& spec, const RngKey& key) {
  if (!spec.format.is_integer()) return float8_row_runs<Out, T>(out, steps, x, spec);
  const int vectors = run_vectors(x, spec);
  with_lanes(vectors, [&](auto lanes, auto each) {
    with_options(spec, [&](auto quotients, auto stochastic) {
      run<Out, T, lanes.value, each.value, quotients.value, stochastic.value, IntCodes>(
          out, steps, x, vectors, spec, key);
    });
  });
}

}  // namespace

void quant_row_runs(Tensor& codes, Tensor& scales, const Tensor& x, const QuantSpec& spec,
                    const RngKey& key) {
  auto* const out = reinterpret_cast<std::uint8_t*>(codes.raw());
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "quantize", T,
                           (row_runs<std::uint8_t, T>(out, scales.data<float>(), x, spec, key)));
}

void quant_round_row_runs(Tensor& y, const Tensor& x, const QuantSpec& spec, const RngKey& key) {
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "fake_quantize", T,
                           (row_runs<T, T>(y.data<T>(), nullptr, x, spec, key)));
}

}  // namespace nibble::cuda
