// Attention forward in bf16 on warpgroup products: the kernel of attention_wgmma_forward.cuh as it
// is.
#include "tensor/cuda/attention_wgmma_forward.cuh"

namespace nibble::cuda {

void launch_attention_wgmma(const ForwardArguments<bfloat16>& a) {
  if (a.shape.width <= 64)
    launch_forward<ForwardTiling64>(a, NoEpilogue{});
  else
    launch_forward<ForwardTiling128>(a, NoEpilogue{});
}

}  // namespace nibble::cuda
