#include "quant/cuda/codes.cuh"

namespace nibble::cuda {

void quant_encode(Tensor& codes, const Tensor& x, const Tensor& steps, const Tensor& zeros,
                  const QuantSpec& spec, const RngKey& key) {
  auto* out = reinterpret_cast<std::uint8_t*>(codes.raw());
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "quantize", T,
                           code_matrix<std::uint8_t, T>(out, x, steps, zeros, spec, key));
}

}  // namespace nibble::cuda
