// Eight elements of a lane as they lie in memory: loaded and stored as vectors where these are
// aligned and whole, else byte by byte; and their draws.
#pragma once

#include "tensor/cuda/common.cuh"
#include "tensor/rng.h"

namespace nibble::cuda {

// Bytes of them, as words; what lies past the end is 0.
struct Raw {
  std::uint32_t w[8];
};

// How many elements a lane has, and whether they make aligned vectors of eight. kVectors: either
// that or none.
template <bool kVectors>
struct Extent {
  int count;
  bool whole;
};

template <int kWords, bool kVectors>
__device__ void load_words(Raw& to, const void* from, Extent<kVectors> bytes) {
  if (bytes.whole) {
    constexpr int kPart = kWords < 4 ? kWords : 4;
#pragma unroll
    for (int i = 0; i < kWords; i += kPart) {
      const auto part =
          load_vector<std::uint32_t, kPart>(static_cast<const std::uint32_t*>(from) + i);
#pragma unroll
      for (int j = 0; j < kPart; ++j) to.w[i + j] = part[j];
    }
    return;
  }
  const auto* p = static_cast<const std::uint8_t*>(from);
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    to.w[i] = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (!kVectors && 4 * i + j < bytes.count) to.w[i] |= std::uint32_t{p[4 * i + j]} << (8 * j);
  }
}
template <int kWords, bool kVectors>
__device__ void store_words(void* to, const Raw& from, Extent<kVectors> bytes) {
  if (bytes.whole) {
    constexpr int kPart = kWords < 4 ? kWords : 4;
#pragma unroll
    for (int i = 0; i < kWords; i += kPart) {
      Vector<std::uint32_t, kPart> part;
#pragma unroll
      for (int j = 0; j < kPart; ++j) part[j] = from.w[i + j];
      store_vector(static_cast<std::uint32_t*>(to) + i, part);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kWords; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (!kVectors && 4 * i + j < bytes.count)
        static_cast<std::uint8_t*>(to)[4 * i + j] = static_cast<std::uint8_t>(from.w[i] >> (8 * j));
}

template <bool kVectors>
__device__ void load_values(Raw& to, const void* from, std::uint64_t at, bool bf16,
                            Extent<kVectors> n) {
  if (bf16)
    load_words<4>(to, static_cast<const bfloat16*>(from) + at,
                  Extent<kVectors>{2 * n.count, n.whole});
  else
    load_words<8>(to, static_cast<const float*>(from) + at, Extent<kVectors>{4 * n.count, n.whole});
}
__device__ inline void values_of(const Raw& from, bool bf16, float (&x)[8]) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const std::uint32_t half = from.w[j / 2] >> (16 * (j % 2)) << 16;
    x[j] = std::bit_cast<float>(bf16 ? half : from.w[j]);
  }
}
template <bool kVectors>
__device__ void store_f32(void* to, std::uint64_t at, const float (&x)[8], Extent<kVectors> n) {
  Raw raw;
#pragma unroll
  for (int j = 0; j < 8; ++j) raw.w[j] = std::bit_cast<std::uint32_t>(x[j]);
  store_words<8>(static_cast<float*>(to) + at, raw, Extent<kVectors>{4 * n.count, n.whole});
}
template <bool kVectors>
__device__ void store_bf16(void* to, std::uint64_t at, const bfloat16 (&x)[8], Extent<kVectors> n) {
  Raw raw;
#pragma unroll
  for (int j = 0; j < 4; ++j)
    raw.w[j] = x[2 * j].bits | static_cast<std::uint32_t>(x[2 * j + 1].bits) << 16;
  store_words<4>(static_cast<bfloat16*>(to) + at, raw, Extent<kVectors>{2 * n.count, n.whole});
}

template <bool kVectors>
__device__ void store_values(void* to, std::uint64_t at, const float (&x)[8], bool bf16,
                             Extent<kVectors> n) {
  if (!bf16) return store_f32(to, at, x, n);
  bfloat16 y[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) y[j] = bfloat16(x[j]);
  store_bf16(to, at, y, n);
}

// The draws of elements at … at + 7 of a stream.
__device__ inline void draw(const RngKey& draws, std::uint32_t site, std::uint64_t at,
                            std::uint32_t (&noise)[4]) {
  const Draws16 stream({draws.seed, site, nullptr}, draws.step_value());
  const auto block = at >> 3;
  const auto skip = static_cast<unsigned>(at & 7);
  const Philox first = stream.block(block);
  if (skip == 0) {
#pragma unroll
    for (int i = 0; i < 4; ++i) noise[i] = first.v[static_cast<unsigned>(i)];
    return;
  }
  // The eight words of two blocks, moved by the numbers to skip: no word is indexed by one, which
  // would take local memory.
  const Philox second = stream.block(block + 1);
  std::uint32_t w[8];
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) w[i] = first.v[i], w[4 + i] = second.v[i];
#pragma unroll
  for (unsigned i = 0; i < 6; ++i) w[i] = skip & 4 ? w[i + 2] : w[i];
#pragma unroll
  for (unsigned i = 0; i < 5; ++i) w[i] = skip & 2 ? w[i + 1] : w[i];
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) noise[i] = skip & 1 ? __funnelshift_r(w[i], w[i + 1], 16) : w[i];
}

}  // namespace nibble::cuda
