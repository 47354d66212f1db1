// Elementwise maps y = f(x…) over contiguous and over strided operands, any dtypes, up to 3 inputs.
// Memory-bound: each operand moves once, as 16-byte vectors of its widest type where alignment and
// strides allow. A thread loads all its vectors before it stores one, so that enough bytes are in
// flight; inputs may be the very array y.
#pragma once

#include <tuple>
#include <type_traits>
#include <utility>

#include "tensor/cuda/walk.cuh"

namespace nibble::cuda {

inline constexpr int kMapBlock = 256;

// What functors see of an element.
template <class T>
__device__ T operand(T x) {
  return x;
}
__device__ inline float operand(bfloat16 x) { return x; }

// Vectors a thread handles: about 64 bytes of input.
template <class... X>
inline constexpr int kMapUnroll = sizeof...(X) <= 1 ? 4 : 2;

// Two f32 in bf16, one instruction; a NaN becomes the one that arithmetic on the GPU returns.
__device__ inline std::uint32_t bf16_pair(float low, float high) {
  std::uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

// Y's of results r: f32 results of bf16 maps are rounded in pairs.
template <class Y, class R, int N>
__device__ Vector<Y, N> stored(const R (&r)[N]) {
  Vector<Y, N> out;
  if constexpr (std::is_same_v<Y, bfloat16> && std::is_same_v<R, float> && N % 2 == 0) {
#pragma unroll
    for (int j = 0; j < N; j += 2) {
      const std::uint32_t bits = bf16_pair(r[j], r[j + 1]);
      out[j] = bfloat16::from_bits(static_cast<std::uint16_t>(bits));
      out[j + 1] = bfloat16::from_bits(static_cast<std::uint16_t>(bits >> 16));
    }
  } else {
#pragma unroll
    for (int j = 0; j < N; ++j) out[j] = static_cast<Y>(r[j]);
  }
  return out;
}

template <int N, class Y, class F, class... X>
__device__ Vector<Y, N> apply_vector(F f, const std::tuple<Vector<X, N>...>& in) {
  const auto at = [&](int j, auto g) {
    return std::apply([&](const auto&... v) { return g(operand(v[j])...); }, in);
  };
  decltype(at(0, f)) r[N];
  // A functor with fast() gives the same bits there while the last input is within kFastBound.
  if constexpr (requires { F::kFastBound; }) {
    bool usual = true;
    const auto& last = std::get<sizeof...(X) - 1>(in);
#pragma unroll
    for (int j = 0; j < N; ++j) usual = usual && std::fabs(operand(last[j])) <= F::kFastBound;
    if (usual) {
#pragma unroll
      for (int j = 0; j < N; ++j) r[j] = at(j, [&](auto... v) { return f.fast(v...); });
      return stored<Y>(r);
    }
  }
#pragma unroll
  for (int j = 0; j < N; ++j) r[j] = at(j, f);
  return stored<Y>(r);
}

template <int N, class Y, class F, class... X>
__global__ void __launch_bounds__(kMapBlock) map_kernel(Y* y, std::int64_t n, F f, const X*... x) {
  constexpr int kUnroll = kMapUnroll<X...>;
  const std::int64_t vectors = n / N;
  const std::int64_t first = std::int64_t{blockIdx.x} * (kMapBlock * kUnroll) + threadIdx.x;
  std::tuple<Vector<X, N>...> in[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u)
    if (const std::int64_t i = first + u * kMapBlock; i < vectors)
      in[u] = std::make_tuple(load_vector<X, N>(x + i * N)...);
#pragma unroll
  for (int u = 0; u < kUnroll; ++u)
    if (const std::int64_t i = first + u * kMapBlock; i < vectors)
      store_vector<Y, N>(y + i * N, apply_vector<N, Y, F, X...>(f, in[u]));
  if (const std::int64_t i = vectors * N + threadIdx.x; blockIdx.x == 0 && i < n)
    y[i] = static_cast<Y>(f(operand(x[i])...));
}

// A vector along the innermost dimension, or one element repeated (stride 0).
template <int N, class T>
__device__ Vector<T, N> load_strided(const T* p, std::uint32_t stride) {
  if constexpr (N > 1) {
    if (stride == 0) {
      Vector<T, N> v;
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] = *p;
      return v;
    }
  }
  return load_vector<T, N>(p);
}

template <int N, class W, std::size_t... K, class... X>
__device__ std::tuple<Vector<X, N>...> load_operands(const W& walk, const typename W::Offsets& at,
                                                     std::index_sequence<K...>, const X*... x) {
  return {load_strided<N>(x + at.at[K + 1], walk.stride[K + 1][0])...};
}

// `walk` counts vectors of N; operand 0 is y.
template <int N, class Y, class F, class... X>
__global__ void __launch_bounds__(kMapBlock)
    strided_kernel(Y* y, Walk<1 + sizeof...(X)> walk, F f, const X*... x) {
  constexpr int kUnroll = kMapUnroll<X...>;
  const std::uint32_t first = blockIdx.x * (kMapBlock * kUnroll) + threadIdx.x;
  std::tuple<Vector<X, N>...> in[kUnroll];
  std::uint32_t to[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u)
    if (const std::uint32_t i = first + u * kMapBlock; i < walk.numel) {
      const auto at = walk(i);
      to[u] = at.at[0];
      in[u] = load_operands<N>(walk, at, std::index_sequence_for<X...>{}, x...);
    }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u)
    if (const std::uint32_t i = first + u * kMapBlock; i < walk.numel)
      store_vector<Y, N>(y + to[u], apply_vector<N, Y, F, X...>(f, in[u]));
}

// Elements that make 16 bytes of the widest operand.
template <class... T>
inline constexpr int kMapVector = std::min({kVector<T>...});

template <class T>
bool takes_vectors(const T* p, int n) {
  return is_aligned(p, sizeof(T) * static_cast<std::size_t>(n));
}

// y[i] = f(x[i]…), all contiguous.
template <class Y, class F, class... X>
void map(Y* y, std::int64_t n, F f, const X*... x) {
  if (n == 0) return;
  constexpr int N = kMapVector<Y, X...>;
  const auto blocks = [n](int width) {
    const std::int64_t per_block = std::int64_t{kMapBlock} * kMapUnroll<X...> * width;
    return static_cast<unsigned>(ceil_div(n, per_block));
  };
  if (takes_vectors(y, N) && (takes_vectors(x, N) && ...))
    launch(map_kernel<N, Y, F, X...>, blocks(N), kMapBlock, 0, y, n, f, x...);
  else
    launch(map_kernel<1, Y, F, X...>, blocks(1), kMapBlock, 0, y, n, f, x...);
}

// Whether operand k (of type T at p) can be read or written in vectors of n along the innermost
// dimension; `repeats` allows stride 0 there.
template <int K, class T>
bool takes_vectors(const Strided<K>& s, int k, const T* p, int n, bool repeats) {
  const int last = s.rank - 1;
  if (repeats && s.stride[k][last] == 0) return true;
  bool ok = s.stride[k][last] == 1 && takes_vectors(p, n);
  for (int d = 0; d < last; ++d) ok = ok && s.stride[k][d] % n == 0;
  return ok;
}

// In pieces whose offsets fit 32 bits.
template <int N, class S, class F, class Y, class... X, std::size_t... K>
void launch_strided(const S& s, std::index_sequence<K...> inputs, F f, Y* y, const X*... x) {
  if (!fits_walk(s)) {
    const auto [low, high, middle] = halves(s);
    launch_strided<N>(low, inputs, f, y, x...);
    launch_strided<N>(high, inputs, f, y + middle[0], (x + middle[K + 1])...);
    return;
  }
  const std::int64_t per_block = std::int64_t{kMapBlock} * kMapUnroll<X...>;
  launch(strided_kernel<N, Y, F, X...>, static_cast<unsigned>(ceil_div(s.numel(), per_block)),
         kMapBlock, 0, y, make_walk(s), f, x...);
}

// The same over a strided index space; operand 0 of s is y.
template <class Y, class F, class... X>
void map_strided(Y* y, const Strided<1 + sizeof...(X)>& s, F f, const X*... x) {
  constexpr int N = kMapVector<Y, X...>;
  const int last = s.rank - 1;
  bool dense = s.rank == 1;
  for (std::size_t k = 0; k < 1 + sizeof...(X); ++k) dense = dense && s.stride[k][last] == 1;
  if (dense) return map(y, s.numel(), f, x...);
  const std::index_sequence_for<X...> inputs;
  int k = 0;
  bool vectors = s.extent[last] % N == 0 && takes_vectors(s, 0, y, N, false);
  ((vectors = vectors && takes_vectors(s, ++k, x, N, true)), ...);
  if (!vectors) return launch_strided<1>(s, inputs, f, y, x...);
  Strided<1 + sizeof...(X)> v = s;
  v.extent[last] /= N;
  for (auto& stride : v.stride) stride[last] *= N;
  launch_strided<N>(v, inputs, f, y, x...);
}

}  // namespace nibble::cuda
