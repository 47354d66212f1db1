// What the pair kernel's producers make (pair_stream.cuh). GELU of bf16 numbers is 7 instructions
// (fast::gelu_tanh_bf16); its slope, an f32 number to the last bit, takes 23, so that a table has
// those of all magnitudes in [2^-18, 16), made by the function itself when a block starts: a
// look-up takes about 4. Slopes of other numbers, and f32, are computed.
#pragma once

#include "quant/cuda/pair_tile.cuh"
#include "tensor/cuda/gelu_table.cuh"

namespace nibble::cuda::stream_pair {

template <Kind kKind, class T>
inline constexpr bool kHasTable = sizeof(T) == 2 && kKind == Kind::GeluBackward;

// By all threads of the block.
__device__ inline void fill_table(std::uint32_t* table) {
  for (std::uint32_t i = threadIdx.x; i < kGeluEntries; i += blockDim.x)
    table[i] = table_entry<true>(i);
}

template <Kind kKind, class T>
__device__ Vector<T, 4> computed(const Vector<T, 4>& x, const Vector<T, 4>& dy) {
  if constexpr (kKind == Kind::Gelu)
    return apply_vector<4, T>(gelu_tanh_of{}, std::make_tuple(x));
  else
    return apply_vector<4, T>(gelu_tanh_backward_of{}, std::make_tuple(dy, x));
}

// The values of N rows of 4 columns: from x in shared memory, where they go too, and from dy there.
// What is not valid stays zeros.
template <Kind kKind, class T, std::size_t N>
__device__ void produce(Vector<T, 4> (&y)[N], T* own, const T* dy, bool valid,
                        const std::uint32_t* table) {
  bool done = !valid;
  if constexpr (kKind == Kind::Gelu && sizeof(T) == 2) {
    done = true;
#pragma unroll 4  // all at once would not fit registers
    for (std::uint32_t i = 0; i < N; ++i) {
      float v[4];
      widen_four(load_vector<T, 4>(own + i * kColumns), v);
#pragma unroll
      for (float& each : v) each = fast::gelu_tanh_bf16(each);  // of zero it is zero
      store_vector(own + i * kColumns, stored<T>(v));
    }
  }
  if constexpr (kHasTable<kKind, T>) {
    uint2 x[N];
    std::uint32_t furthest = 0;
#pragma unroll
    for (std::uint32_t i = 0; i < N; ++i) {
      const auto place = [&](std::uint32_t w) {
        const std::uint32_t at = (w << 1 & 0xfffefffeu) | (w >> 15 & 0x00010001u);
        constexpr std::uint32_t kBack = (0x10000u - kGeluFirst) * 0x10001u;
        furthest = __viaddmax_u16x2(at, kBack, furthest);
        return at;
      };
      const auto w = *reinterpret_cast<const uint2*>(own + i * kColumns);
      x[i] = {place(w.x), place(w.y)};
    }
    if (valid && (furthest & 0xffffu) < kGeluEntries && furthest >> 16 < kGeluEntries) {
      done = true;
#pragma unroll
      for (std::uint32_t i = 0; i < N; ++i) {
        const auto result = [&](std::uint32_t at, std::uint32_t two) {
          const std::uint32_t low = table[(at & 0xffffu) - kGeluFirst],
                              high = table[(at >> 16) - kGeluFirst];
          return bf16_pair(std::bit_cast<float>(two << 16) * std::bit_cast<float>(low),
                           std::bit_cast<float>(two & 0xffff0000u) * std::bit_cast<float>(high));
        };
        const auto d = *reinterpret_cast<const uint2*>(dy + i * kColumns);
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
      if constexpr (kKind == Kind::GeluBackward) d = load_vector<T, 4>(dy + i * kColumns);
      store_vector(own + i * kColumns, computed<kKind>(load_vector<T, 4>(own + i * kColumns), d));
    }
  // After one kind of values or the other: what shared memory has.
  if (!kHasTable<kKind, T> || !done || !valid)
#pragma unroll
    for (std::uint32_t i = 0; i < N; ++i) y[i] = load_vector<T, 4>(own + i * kColumns);
}

}  // namespace nibble::cuda::stream_pair
