// Which pairs of specs have a Real product: shared by matmul_nt, which knows the extents, and by
// recipe validation, which does not.
#pragma once

#include <cstdint>
#include <string>

#include "quant/spec.h"

namespace nibble {

// Shorter runs of codes under one scale are products of floats in all but name.
inline constexpr std::int64_t kMinContractionBlock = 16;

struct ProductExtents {
  std::int64_t m = 0, n = 0, k = 0;  // 0: not known yet
};

// What keeps a[m, k]·b[n, k]ᵀ from being formed from codes, with what would work; empty when
// nothing does.
std::string real_product_fault(const QuantSpec& a, const QuantSpec& b,
                               const ProductExtents& extents);

// Codes along the contraction of k > 0 that share their scales in both operands; k when all do.
std::int64_t contraction_block(const QuantSpec& a, const QuantSpec& b, std::int64_t k);

}  // namespace nibble
