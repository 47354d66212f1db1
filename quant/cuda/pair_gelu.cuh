// GELU and its slope of bf16 numbers by table, for the pair kernel (pair_stream.cuh): all numbers
// of magnitudes in [2^-18, 16), made by the functions themselves when a block starts. A look-up
// takes about 4 instructions where GELU takes 20 and its slope 23. Other numbers, and f32, are
// computed.
#pragma once

#include "quant/cuda/pair_tile.cuh"
#include "tensor/cuda/elementwise.cuh"
#include "tensor/cuda/fast_math.cuh"

namespace nibble::cuda::stream_pair {

// The same functors as tensor/cuda/activation.cu's.
struct GeluOf {
  static constexpr float kFastBound = fast::kGeluBound;
  __device__ float operator()(float v) const { return scalar::gelu_tanh(v); }
  __device__ static float fast(float v) { return nibble::cuda::fast::gelu_tanh(v); }
};
struct GeluBackwardOf {
  static constexpr float kFastBound = fast::kGeluBound;
  __device__ float operator()(float d, float v) const { return scalar::gelu_tanh_backward(d, v); }
  __device__ static float fast(float d, float v) {
    return nibble::cuda::fast::gelu_tanh_backward(d, v);
  }
};

// A number's place: its bits with the sign at the bottom, less those of the first.
inline constexpr std::uint32_t kTableFirst = 2 * (109u << 7), kTableEnd = 2 * (131u << 7);
inline constexpr std::uint32_t kTableEntries = kTableEnd - kTableFirst;
template <Kind kKind, class T>
inline constexpr bool kHasTable = sizeof(T) == 2 && kKind == Kind::GeluBackward;

// By all threads of the block.
inline __device__ void fill_table(float* table) {
  for (std::uint32_t i = threadIdx.x; i < kTableEntries; i += blockDim.x) {
    const std::uint32_t at = kTableFirst + i;
    const float x = std::bit_cast<float>((at >> 1 | at << 15) << 16);
    table[i] = scalar::gelu_tanh_slope(x, scalar::sigmoid(scalar::gelu_2u(x)));
  }
}

// gelu_tanh(x), once rounded to bf16, of bf16 x below kGeluBits: 2u · log2 e with coefficients so
// close to the true ones, and so chosen, that the hardware's estimates make every result right.
inline constexpr std::uint32_t kGeluBits = 0x4100;
inline __device__ float gelu_to_bf16(float x) {
  constexpr float linear = -2.30220819813f, cubic = -0.10294324f;
  float power, share;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * std::fma(cubic, x * x, linear)));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(share) : "f"(1.0f + power));
  return x * share;
}

template <Kind kKind, class T>
__device__ Vector<T, 4> computed(const Vector<T, 4>& x, const Vector<T, 4>& dy) {
  if constexpr (kKind == Kind::Gelu)
    return apply_vector<4, T>(GeluOf{}, std::make_tuple(x));
  else
    return apply_vector<4, T>(GeluBackwardOf{}, std::make_tuple(dy, x));
}

// The values of N rows of 4 columns: from x in shared memory, where they go too, and from dy, which
// y holds before. What is not valid stays zeros.
template <Kind kKind, class T, std::size_t N>
__device__ void produce(Vector<T, 4> (&y)[N], T* own, bool valid, const T* dy, std::uint32_t cols,
                        const float* table) {
  constexpr bool kBackward = kKind == Kind::GeluBackward;
  bool done = !valid;
  if constexpr (sizeof(T) == 2) {
    uint2 x[N];
    std::uint32_t furthest = 0;
#pragma unroll
    for (std::uint32_t i = 0; i < N; ++i) {
      const auto prepared = [&](std::uint32_t w) {
        if constexpr (!kBackward) {
          furthest = __vmaxu2(furthest, w & 0x7fff7fffu);
          return w;
        }
        const std::uint32_t at = (w << 1 & 0xfffefffeu) | (w >> 15 & 0x00010001u);
        constexpr std::uint32_t kBack = (0x10000u - kTableFirst) * 0x10001u;
        furthest = __viaddmax_u16x2(at, kBack, furthest);
        return at;
      };
      const auto w = *reinterpret_cast<const uint2*>(own + i * kColumns);
      x[i] = {prepared(w.x), prepared(w.y)};
    }
    constexpr std::uint32_t kEnd = kBackward ? kTableEntries : kGeluBits;
    if (valid && (furthest & 0xffffu) < kEnd && furthest >> 16 < kEnd) {
      done = true;
#pragma unroll
      for (std::uint32_t i = 0; i < N; ++i) {
        const auto result = [&](std::uint32_t two, std::uint32_t d) {
          const float low = std::bit_cast<float>(two << 16),
                      high = std::bit_cast<float>(two & 0xffff0000u);
          if constexpr (!kBackward) return bf16_pair(gelu_to_bf16(low), gelu_to_bf16(high));
          return bf16_pair(
              std::bit_cast<float>(d << 16) * table[(two & 0xffffu) - kTableFirst],
              std::bit_cast<float>(d & 0xffff0000u) * table[(two >> 16) - kTableFirst]);
        };
        const auto d = *reinterpret_cast<const uint2*>(&y[i]);
        const uint2 both{result(x[i].x, d.x), result(x[i].y, d.y)};
        y[i] = *reinterpret_cast<const Vector<T, 4>*>(&both);
        store_vector(own + i * kColumns, y[i]);
      }
    }
  }
  if (!done)
#pragma unroll 1
    for (std::uint32_t i = 0; i < N; ++i) {
      Vector<T, 4> d{};
      if constexpr (kBackward) d = load_vector<T, 4>(dy + std::int64_t{i} * cols);
      store_vector(own + i * kColumns, computed<kKind>(load_vector<T, 4>(own + i * kColumns), d));
    }
  // After one kind of values or the other: what shared memory has.
  if (sizeof(T) == 4 || !done || !valid)
#pragma unroll
    for (std::uint32_t i = 0; i < N; ++i) y[i] = load_vector<T, 4>(own + i * kColumns);
}

}  // namespace nibble::cuda::stream_pair
