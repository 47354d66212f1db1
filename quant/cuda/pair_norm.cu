// quant_pair of layer norms.
#include "quant/cuda/pair.cuh"

namespace nibble::cuda::pair {

template void run<Kind::LayerNorm>(Arguments<float>&, bool);
template void run<Kind::LayerNorm>(Arguments<bfloat16>&, bool);
template void run<Kind::AddLayerNorm>(Arguments<float>&, bool);
template void run<Kind::AddLayerNorm>(Arguments<bfloat16>&, bool);

}  // namespace nibble::cuda::pair
