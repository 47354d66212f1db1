// Integers by runs along columns of x itself.
#include "quant/cuda/column_runs.cuh"

namespace nibble::cuda {

void quant_column_runs(Tensor& codes, Tensor& scales, const Tensor& x, const QuantSpec& spec,
                       const RngKey& key) {
  using namespace one_pass;
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "quantize", T, with_column_tile(spec, x, [&](auto tile) {
                             with_options(spec, [&](auto quotients, auto stochastic) {
                               column_runs<T, decltype(tile), quotients.value, stochastic.value>(
                                   codes, scales, x, Itself<T>{}, spec, key);
                             });
                           }));
}

}  // namespace nibble::cuda
