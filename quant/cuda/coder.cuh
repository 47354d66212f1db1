// The codes of each format for small arrays that a thread holds: what cpu/coder.h is on the CPU.
// Tables travel as kernel parameters, so nothing is uploaded and a captured graph holds them; a
// kernel copies what it needs into shared memory through `prepare`, which all its threads call.
#pragma once

#include "quant/codec.h"
#include "quant/format.h"
#include "tensor/cuda/common.cuh"

namespace nibble::cuda {

// What a kernel does with codes.
enum class Coding : std::uint8_t { Encode, Decode, Round /* encode, then decode */ };

// Copies a table of the parameters. Its generic address makes this a coalesced load; as a constant
// each thread's word would be a transaction of its own.
template <class T, int N>
__device__ void copy_table(T (&to)[N], const T (&from)[N]) {
  const T* address = from;
  asm volatile("" : "+l"(address));
  const auto thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
  const auto threads = static_cast<int>(blockDim.x * blockDim.y);
  for (int i = thread; i < N; i += threads) to[i] = address[i];
}

class IntCoder {
 public:
  // Quotients that lie near 0 may be a few ulp off (codec::quotient).
  static constexpr bool kTellsTiny = false;
  struct Shared {};

  explicit IntCoder(const Format& f)
      : low_(static_cast<float>(f.qmin())),
        high_(static_cast<float>(f.qmax())),
        signed_(f.is_signed()) {}

  template <Coding, bool kStochastic>
  __device__ void prepare(Shared&) const {}

  // y / step to codes; `draws` counts when kStochastic.
  template <bool kStochastic, int V>
  __device__ void encode(const Shared&, const float (&y)[V], const std::uint32_t (&draws)[V],
                         std::uint32_t (&codes)[V]) const {
#pragma unroll
    for (int j = 0; j < V; ++j)
      codes[j] = static_cast<std::uint32_t>(kStochastic
                                                ? codec::encode_integer(y[j], low_, high_, draws[j])
                                                : codec::encode_integer(y[j], low_, high_));
  }
  // y / step to the values of its codes.
  template <bool kStochastic, int V>
  __device__ void round(const Shared&, const float (&y)[V], const std::uint32_t (&draws)[V],
                        float (&values)[V]) const {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float noisy = kStochastic ? codec::add(y[j], centred_noise(draws[j])) : y[j];
      values[j] = codec::sub(codec::add(codec::clamp(noisy, low_, high_), codec::kRoundMagic),
                             codec::kRoundMagic);
    }
  }
  // Quotients of at most this magnitude round into the codes; noise leads out of them above only.
  __device__ float usual() const { return low_ < -high_ ? high_ + 0.25f : -1.0f; }
  // Code in the low byte, anything above it.
  __device__ std::uint32_t encode_usual(float y, bool noisy) const {
    return std::bit_cast<std::uint32_t>(
        codec::add(noisy ? fminf(y, high_) : y, codec::kRoundMagic));
  }
  __device__ float decode(const Shared&, std::uint8_t code) const {
    return signed_ ? static_cast<float>(static_cast<std::int8_t>(code)) : static_cast<float>(code);
  }

 private:
  float low_, high_;
  bool signed_;
};

// What every code stands for, by byte.
struct ValueTable {
  float values[256];
  explicit ValueTable(const Format& f) {
    for (int code = 0; code < 256; ++code)
      values[code] = f.value_of(static_cast<std::uint8_t>(code));
  }
};

class FloatCoder {
 public:
  static constexpr bool kTellsTiny = false;
  struct Shared {
    float values[256];
  };

  explicit FloatCoder(const Format& f) : f_(f.exponent_bits(), f.mantissa_bits()), table_(f) {}

  template <Coding kCoding, bool kStochastic>
  __device__ void prepare(Shared& s) const {
    if constexpr (kCoding != Coding::Encode) {
      copy_table(s.values, table_.values);
      __syncthreads();
    }
  }
  template <bool kStochastic, int V>
  __device__ void encode(const Shared&, const float (&y)[V], const std::uint32_t (&draws)[V],
                         std::uint32_t (&codes)[V]) const {
#pragma unroll
    for (int j = 0; j < V; ++j)
      codes[j] =
          kStochastic ? codec::encode_float(f_, y[j], draws[j]) : codec::encode_float(f_, y[j]);
  }
  template <bool kStochastic, int V>
  __device__ void round(const Shared& s, const float (&y)[V], const std::uint32_t (&draws)[V],
                        float (&values)[V]) const {
    std::uint32_t codes[V];
    encode<kStochastic>(s, y, draws, codes);
#pragma unroll
    for (int j = 0; j < V; ++j) values[j] = s.values[codes[j] & 0xffu];
  }
  __device__ float decode(const Shared& s, std::uint8_t code) const { return s.values[code]; }

 private:
  codec::SmallFloat f_;
  ValueTable table_;
};

// A code is the number of bounds below y. y's sign, exponent (of a window of 32 below the largest
// bound's) and four bits of mantissa select a bucket; a table says how many bounds lie below it,
// and a binary search covers those inside it: two or three steps for the dynamic 8-bit maps.
class BookCoder {
 public:
  static constexpr bool kTellsTiny = true;
  static constexpr int kBounds = 384;  // 255 and infinities as far as a search may look
  struct Shared {
    float bounds[kBounds];
    float values[256];
    std::uint32_t starts[256];  // four to a word
  };

  explicit BookCoder(const Format& f);

  template <Coding kCoding, bool kStochastic>
  __device__ void prepare(Shared& s) const {
    if constexpr (kCoding != Coding::Decode) {
      copy_table(s.bounds, bounds_);
      copy_table(s.starts, starts_);
    }
    if constexpr (kCoding != Coding::Encode || kStochastic) copy_table(s.values, table_.values);
    __syncthreads();
  }
  template <bool kStochastic, int V>
  __device__ void encode(const Shared& s, const float (&y)[V], const std::uint32_t (&draws)[V],
                         std::uint32_t (&codes)[V]) const {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const std::uint32_t bucket = bucket_of(y[j]);
      codes[j] = s.starts[bucket >> 2] >> (8 * (bucket & 3)) & 0xffu;
    }
    for (std::uint32_t step = first_step_; step > 0; step >>= 1) {
#pragma unroll
      for (int j = 0; j < V; ++j) codes[j] += y[j] > s.bounds[codes[j] + step - 1] ? step : 0u;
    }
#pragma unroll
    for (int j = 0; j < V; ++j) {
      if (y[j] != y[j]) codes[j] = size_ - 1;
      if constexpr (kStochastic)
        codes[j] = codec::round_book(s.values, size_, y[j], codes[j], draws[j]);
    }
  }
  template <bool kStochastic, int V>
  __device__ void round(const Shared& s, const float (&y)[V], const std::uint32_t (&draws)[V],
                        float (&values)[V]) const {
    std::uint32_t codes[V];
    encode<kStochastic>(s, y, draws, codes);
#pragma unroll
    for (int j = 0; j < V; ++j) values[j] = s.values[codes[j]];
  }
  __device__ float decode(const Shared& s, std::uint8_t code) const { return s.values[code]; }

 private:
  static constexpr std::int32_t kSide = 512;  // buckets of each sign
  static constexpr int kBucketBits = 19;      // of an f32 that lie below the bucket's

  __device__ std::uint32_t bucket_of(float y) const {
    const auto u = std::bit_cast<std::uint32_t>(y);
    const auto exponent = static_cast<std::int32_t>((u & 0x7fffffffu) >> kBucketBits);
    const std::int32_t magnitude = ::min(::max(exponent - lowest_, 0), kSide - 1);
    return static_cast<std::uint32_t>(u >> 31 ? kSide - 1 - magnitude : kSide + magnitude);
  }

  float bounds_[kBounds];
  std::uint32_t starts_[256];
  ValueTable table_;
  std::uint32_t size_, first_step_ = 0;
  std::int32_t lowest_;  // first bucket of the window, counted from 0.0
};

// Calls fn(coder) with the coder of a format.
template <class F>
void with_coder(const Format& format, F&& fn) {
  switch (format.kind()) {
    case Format::Kind::Int: return fn(IntCoder(format));
    case Format::Kind::Float: return fn(FloatCoder(format));
    case Format::Kind::CodeBook: return fn(BookCoder(format));
  }
}

}  // namespace nibble::cuda
