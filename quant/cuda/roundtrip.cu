#include "quant/cuda/codes.cuh"

namespace nibble::cuda {

void quant_roundtrip(Tensor& y, const Tensor& x, const Tensor& steps, const Tensor& zeros,
                     const QuantSpec& spec, const RngKey& key) {
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "fake_quantize", T,
                           code_matrix<T, T>(y.data<T>(), x, steps, zeros, spec, key));
}

}  // namespace nibble::cuda
