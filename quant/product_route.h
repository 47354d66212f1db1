// Which kernel serves a Real product, and why: a function of specs, extents and device, so that it
// can be asked on a machine without that device.
#pragma once

#include <cstdint>
#include <string>

#include "quant/product.h"
#include "tensor/device.h"

namespace nibble {

struct ProductRoute {
  std::string name;      // "cublaslt+scale"; "none" when the specs have no Real product
  std::string reason;    // a sentence
  bool decoded = false;  // the codes become floats before they are multiplied
  bool operator==(const ProductRoute&) const = default;
};

// All extents positive. On Cuda in a build without it integers are "int kernels of a CUDA build".
ProductRoute product_route(const QuantSpec& a, const QuantSpec& b, const ProductExtents& extents,
                           Device device);

// Real products of this process that were formed on a GPU from decoded codes.
std::uint64_t decoded_products();
namespace detail {
void count_decoded_product();
}

}  // namespace nibble
