// What kernels gather from tiles: integers whose maximum is the answer, whatever the order.
#pragma once

#include <bit>

#include "quant/scale_math.h"
#include "tensor/cuda/common.cuh"

namespace nibble::cuda::extremes {

// The magnitude's bits: one maximum.
template <class T>
struct Largest {
  static constexpr int kValues = 1;
  std::uint32_t most = 0;

  template <int V>
  __device__ void add(const T (&x)[V]) {
#pragma unroll
    for (int j = 0; j < V; ++j)
      most = ::max(most, std::bit_cast<std::uint32_t>(to_float(x[j])) & 0x7fffffffu);
  }
  __device__ std::uint32_t value(int) const { return most; }
  __device__ void set(int, std::uint32_t v) { most = v; }
};
// Two columns' bf16 magnitudes are compared at once, as 16-bit halves.
template <>
template <>
__device__ inline void Largest<bfloat16>::add<8>(const bfloat16 (&x)[8]) {
  std::uint32_t pairs = 0;
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    const std::uint32_t pair = x[j].bits | static_cast<std::uint32_t>(x[j + 1].bits) << 16;
    pairs = __vmaxu2(pairs, pair & 0x7fff7fffu);
  }
  most = ::max(most, ::max(pairs & 0xffff0000u, pairs << 16));
}

// Bits in the order of values: the maximum, and the maximum of their complements.
template <class T>
struct Extremes {
  static constexpr int kValues = 2;
  std::uint32_t high = 0, low = 0;

  template <int V>
  __device__ void add(const T (&x)[V]) {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const std::uint32_t key = codec::ordered_bits(to_float(x[j]));
      high = ::max(high, key);
      low = ::max(low, ~key);
    }
  }
  __device__ std::uint32_t value(int i) const { return i == 0 ? high : low; }
  __device__ void set(int i, std::uint32_t v) { (i == 0 ? high : low) = v; }
};

// Where results go: integers that wait for other parts of their tile, or finished ranges.
struct Output {
  float* ranges;
  float* minima;  // null for Largest
  codec::RangeRule rule;

  __device__ void finish(std::int64_t tile, const std::uint32_t* found) const {
    if (!minima) {
      ranges[tile] = rule.of_largest(std::bit_cast<float>(found[0]));
      return;
    }
    const float low = codec::from_ordered(~found[1]);
    ranges[tile] = rule.of_extremes(low, codec::from_ordered(found[0]));
    minima[tile] = rule.minimum(low);
  }
  template <class Found>
  __device__ void put(std::int64_t tile, const Found& f, bool whole) const {
    std::uint32_t found[2] = {f.value(0), f.value(1)};
    if (whole) return finish(tile, found);
    atomicMax(reinterpret_cast<std::uint32_t*>(ranges) + tile, found[0]);
    if (Found::kValues == 2) atomicMax(reinterpret_cast<std::uint32_t*>(minima) + tile, found[1]);
  }
};

// Over groups of `lanes` neighbours, a power of two.
template <class Found>
__device__ void reduce_lanes(Found& f, unsigned lanes) {
  if (lanes == kWarp) {
#pragma unroll
    for (int i = 0; i < Found::kValues; ++i) f.set(i, __reduce_max_sync(kFullMask, f.value(i)));
    return;
  }
#pragma unroll
  for (unsigned distance = kWarp / 2; distance > 0; distance /= 2) {
    if (distance >= lanes) continue;
#pragma unroll
    for (int i = 0; i < Found::kValues; ++i)
      f.set(i, ::max(f.value(i), __shfl_xor_sync(kFullMask, f.value(i), distance)));
  }
}

}  // namespace nibble::cuda::extremes
