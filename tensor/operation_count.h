// How much arithmetic this process has queued on any device, by what carries it out: beside the
// time of the kernels, their share of what a device can do. Multiplications and additions of the
// result alone: padding, masked scores and recomputation don't count.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "tensor/shape.h"

namespace nibble {

enum class OperationKind : std::uint8_t { IntProduct, Fp8Product, FloatProduct, Attention };
inline constexpr std::size_t kOperationKinds = 4;

struct OperationCount {
  std::array<double, kOperationKinds> of{};
  double operator[](OperationKind kind) const { return of[static_cast<std::size_t>(kind)]; }
  friend OperationCount operator-(OperationCount a, const OperationCount& b) {
    for (std::size_t i = 0; i < kOperationKinds; ++i) a.of[i] -= b.of[i];
    return a;
  }
};

OperationCount operation_count();
void count_operations(OperationKind kind, double operations);
// c[m, n] from a[m, k] and b[k, n].
void count_product(OperationKind kind, std::int64_t m, std::int64_t n, std::int64_t k);
// `products` of attention's score matrices, [queries, keys] by heads: 2 forward, 4 backward.
void count_attention(int products, const Shape& q /*[B, T, H, D]*/, std::int64_t keys, bool causal);

}  // namespace nibble
