// GELU (tanh) and its slope of bf16 numbers by table: 5 instructions a number (8 with dy) where the
// formulas take 25 (32), which is more than memory's time at the clock that a GPU has beside large
// products. A look-up of a warp waits for some 3.5 banks: half of memory's time. Bits are the
// formulas'.
#pragma once

#include "tensor/cuda/elementwise.cuh"
#include "tensor/cuda/fast_math.cuh"

namespace nibble::cuda {

struct gelu_tanh_of {
  static constexpr float kFastBound = fast::kGeluBound;
  __device__ float operator()(float v) const { return scalar::gelu_tanh(v); }
  __device__ static float fast(float v) { return nibble::cuda::fast::gelu_tanh(v); }
};
struct gelu_tanh_backward_of {
  static constexpr float kFastBound = fast::kGeluBound;
  __device__ float operator()(float d, float v) const { return scalar::gelu_tanh_backward(d, v); }
  __device__ static float fast(float d, float v) {
    return nibble::cuda::fast::gelu_tanh_backward(d, v);
  }
};

// A number's place in the table: its bits with the sign at the bottom, less those of the first.
// Magnitudes in [2^-18, 16) are there.
inline constexpr std::uint32_t kGeluFirst = 2 * (109u << 7), kGeluEnd = 2 * (131u << 7);
inline constexpr std::uint32_t kGeluEntries = kGeluEnd - kGeluFirst;
inline constexpr std::uint32_t kBoth = 0x10001u;  // in both halves of a word

// Threads of a block, and from how many elements on a table pays.
inline constexpr int kTableBlock = 768;
inline constexpr std::int64_t kTableElements = std::int64_t{1} << 21;

template <bool kBackward>
__device__ std::uint32_t table_entry(std::uint32_t place) {
  const std::uint32_t at = kGeluFirst + place;
  const float x = __uint_as_float((at >> 1 | at << 15) << 16);
  if constexpr (kBackward)
    return __float_as_uint(scalar::gelu_tanh_slope(x, scalar::sigmoid(scalar::gelu_2u(x))));
  else
    return bf16_pair(scalar::gelu_tanh(x), 0.0f);
}

// y of 8 numbers from the table; false, with y not written, where one is not in it.
template <bool kBackward>
__device__ bool look_up(uint4& y, const uint4& x, const uint4& dy, const std::uint32_t* table) {
  const std::uint32_t in[4] = {x.x, x.y, x.z, x.w}, d[4] = {dy.x, dy.y, dy.z, dy.w};
  std::uint32_t place[4], furthest = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t at = (in[i] << 1 & ~kBoth) | (in[i] >> 15 & kBoth);
    furthest = __viaddmax_u16x2(at, (0x10000u - kGeluFirst) * kBoth, furthest);
    place[i] = at - kGeluFirst * kBoth;  // right in both halves if both are in the table
  }
  if ((furthest & 0xffffu) >= kGeluEntries || furthest >> 16 >= kGeluEntries) return false;
  std::uint32_t out[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t low = table[place[i] & 0xffffu], high = table[place[i] >> 16];
    if constexpr (kBackward)
      out[i] = bf16_pair(__uint_as_float(d[i] << 16) * __uint_as_float(low),
                         __uint_as_float(d[i] & 0xffff0000u) * __uint_as_float(high));
    else
      out[i] = __byte_perm(low, high, 0x5410);
  }
  y = {out[0], out[1], out[2], out[3]};
  return true;
}

// y of 8 numbers of which one is not in the table: by the formula. They are read again, so that
// what is common needs no registers for what is rare. y may be x or dy.
template <bool kBackward>
__device__ void compute(uint4* y, const uint4* x, const uint4* dy) {
  auto* const to = reinterpret_cast<bfloat16*>(y);
  const auto *const from = reinterpret_cast<const bfloat16*>(x),
                    *const gradient = reinterpret_cast<const bfloat16*>(dy);
#pragma unroll 1
  for (int e = 0; e < kVector<bfloat16>; ++e) {
    const float v = to_float(from[e]);
    if constexpr (kBackward)
      to[e] = from_float<bfloat16>(scalar::gelu_tanh_backward(to_float(gradient[e]), v));
    else
      to[e] = from_float<bfloat16>(scalar::gelu_tanh(v));
  }
}

// By all threads of the block.
template <bool kBackward>
__device__ void fill_table(std::uint32_t* table) {
  for (std::uint32_t i = threadIdx.x; i < kGeluEntries; i += kTableBlock)
    table[i] = table_entry<kBackward>(i);
  __syncthreads();
}

}  // namespace nibble::cuda
