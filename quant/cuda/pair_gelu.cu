// quant_pair of GELU and its backward.
#include "quant/cuda/pair.cuh"

namespace nibble::cuda::pair {

template void run<Kind::Gelu>(Arguments<float>&, bool);
template void run<Kind::Gelu>(Arguments<bfloat16>&, bool);
template void run<Kind::GeluBackward>(Arguments<float>&, bool);
template void run<Kind::GeluBackward>(Arguments<bfloat16>&, bool);

}  // namespace nibble::cuda::pair
