// quant_pair of GELU and its backward.
#include "quant/cuda/pair_stream.cuh"

namespace nibble::cuda::stream_pair {

template void run<Kind::Gelu>(Arguments<float>&, bool, bool);
template void run<Kind::Gelu>(Arguments<bfloat16>&, bool, bool);
template void run<Kind::GeluBackward>(Arguments<float>&, bool, bool);
template void run<Kind::GeluBackward>(Arguments<bfloat16>&, bool, bool);

}  // namespace nibble::cuda::stream_pair
