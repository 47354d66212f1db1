// Which kernel serves a product, and why: a function of specs, extents and device in every build,
// so that it can be asked on a machine without that device.
#pragma once

#include <cstdint>
#include <string>

#include "quant/product.h"
#include "tensor/device.h"

namespace nibble {

struct ProductRoute {
  std::string name;      // "cublaslt+scale"; "none" when the specs have no Real product
  std::string reason;    // a sentence
  bool decoded = false;  // Real, but the codes become floats before they are multiplied
  bool general = false;  // integers, but by the GPU's kernel for any layout, without tensor cores
  // Slower than what the recipe was chosen for.
  bool is_fallback() const { return decoded || general; }
  bool operator==(const ProductRoute&) const = default;
};

// A Real product a[m, k]·b[n, k]ᵀ. Cuda is a GPU of compute capability 9.0, there or not. Throws
// Error("product route") for extents that are not positive and for Meta.
ProductRoute product_route(const QuantSpec& a, const QuantSpec& b, const ProductExtents& extents,
                           Device device);
// A product of floats of one dtype: of dense operands, or `simulated` from decoded codes.
ProductRoute dense_route(DType dtype, bool simulated, Device device);

// Real products of this process that were formed on a GPU from decoded codes.
std::uint64_t decoded_products();
namespace detail {
void count_decoded_product();
}

}  // namespace nibble
