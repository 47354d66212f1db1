// How often each route served cuda::fp8_gemm.
#pragma once

#include <cstdint>

#include "quant/fp8_route.h"

namespace nibble::cuda {

// Products of this process that `route` formed, after any that came before it gave way.
std::uint64_t fp8_products(Fp8Route route);

}  // namespace nibble::cuda
