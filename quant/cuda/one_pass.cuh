// Parts of the one-pass quantizers: from a run's largest magnitude to its step, from values to
// codes.
#pragma once

#include "quant/cuda/codes.cuh"
#include "quant/cuda/extremes.cuh"
#include "tensor/cuda/draws.cuh"

namespace nibble::cuda::one_pass {

// What the values of a run are divided or multiplied by. `usual`: quotients stay inside the codes
// but for noise, and `inverse` serves to divide; other runs (zeros, NaN, extreme steps, clipped
// ranges) take codec.h's general forms. A run that is not usual has an inverse of 0.
struct Scale {
  float step, factor, inverse;
  __device__ bool usual() const { return inverse != 0; }
};

// What a spec asks of a run: symmetric codes with f32 steps (quant/one_pass.cpp).
template <class Codes>
struct RuleOf {
  codec::RangeRule range;
  codec::StepRule step;
  Codes coder;

  explicit RuleOf(const QuantSpec& spec) : range(spec), step(spec), coder(spec.format) {}
  __device__ float of_largest(std::uint32_t most) const {
    return step.step(range.of_largest(std::bit_cast<float>(most)), 0.0f, step.least(0.0f));
  }
  template <Quotients kQuotients>
  __device__ Scale scale_of(std::uint32_t most) const {
    const float largest = std::bit_cast<float>(most);
    Scale s{of_largest(most), 0, 0};
    bool usual = true;
    if constexpr (kQuotients == Quotients::Reciprocal) {
      s.factor = s.inverse = codec::multiplier_of(s.step);
    } else {
      s.factor = codec::divisor_of(s.step);
      s.inverse = codec::div(1.0f, s.factor);
      usual = codec::quotient_divides(s.factor) && largest <= 0x1p63f;
    }
    // The comparison is false for NaN.
    if (!usual || !(codec::mul(largest, s.inverse) <= coder.usual())) s.inverse = 0;
    return s;
  }
};

// A value of a usual run over its step; kSigned: of a zero, too, the sign is kept.
template <Quotients kQuotients, bool kSigned>
__device__ float usual_quotient(float x, float factor, float inverse) {
  if constexpr (kQuotients == Quotients::Reciprocal) {
    return codec::mul(x, inverse);
  } else if constexpr (kSigned) {
    return codec::quotient(x, factor, inverse);
  } else {
    const float first = codec::mul(x, inverse);
    const float second = std::fma(std::fma(-factor, first, x), inverse, first);
    return std::fma(std::fma(-factor, second, x), inverse, second);
  }
}
// Eight neighbours as f32; bf16 pairs are taken apart word by word.
template <class T>
__device__ void widen(const T (&x)[8], float (&y)[8]) {
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    if constexpr (sizeof(T) == 2) {
      const std::uint32_t pair = x[j].bits | std::uint32_t{x[j + 1].bits} << 16;
      y[j] = std::bit_cast<float>(pair << 16);
      y[j + 1] = std::bit_cast<float>(pair & 0xffff0000u);
    } else {
      y[j] = x[j], y[j + 1] = x[j + 1];
    }
  }
}

// ---- codes of usual runs ---------------------------------------------------------------------

// The noise of draw j of a block: centred_noise without a conversion, which runs at a quarter of
// the rate. The draw becomes the low half of a float of 2^23 …; every operation is exact.
__device__ inline float noise_of(const Philox& draws, int j) {
  const std::uint32_t bits = __byte_perm(draws.v[j >> 1], 0x4b00u, j & 1 ? 0x5432 : 0x5410);
  const float half = codec::sub(std::bit_cast<float>(bits), 8388607.5f);  // the draw + 1/2
  return std::fma(half, 1.0f / 65536.0f, -0.5f);
}
// The low bytes of four words.
__device__ inline std::uint32_t low_bytes(std::uint32_t a, std::uint32_t b, std::uint32_t c,
                                          std::uint32_t d) {
  return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

struct IntCodes : IntCoder {
  using IntCoder::IntCoder;
  static constexpr bool kSigned = false;

  // Quotient j's code in the low byte, anything above it.
  template <bool kStochastic>
  __device__ std::uint32_t code(float y, const Philox& draws, int j) const {
    return encode_usual(kStochastic ? codec::add(y, noise_of(draws, j)) : y, kStochastic);
  }
  template <bool kStochastic>
  __device__ void codes(const float (&y)[8], const Philox& draws, std::uint32_t (&words)[2]) const {
#pragma unroll
    for (int w = 0; w < 2; ++w)
      words[w] = low_bytes(code<kStochastic>(y[4 * w], draws, 4 * w),
                           code<kStochastic>(y[4 * w + 1], draws, 4 * w + 1),
                           code<kStochastic>(y[4 * w + 2], draws, 4 * w + 2),
                           code<kStochastic>(y[4 * w + 3], draws, 4 * w + 3));
  }
  template <bool kStochastic>
  __device__ void values(const float (&y)[8], const Philox& draws, float (&to)[8]) const {
#pragma unroll
    for (int j = 0; j < 8; ++j)
      to[j] =
          codec::sub(std::bit_cast<float>(code<kStochastic>(y[j], draws, j)), codec::kRoundMagic);
  }
};

// e4m3 and e5m2, nearest: the instruction's codes are codec::encode_float's, but for NaN.
template <int kExponent, int kMantissa>
struct Float8Codes {
  static constexpr bool kSigned = true;
  struct Shared {};

  explicit Float8Codes(const Format&) {}
  __device__ float usual() const { return codec::kFloatMax; }
  template <bool kStochastic>
  __device__ void codes(const float (&y)[8], const Philox&, std::uint32_t (&words)[2]) const {
    static_assert(!kStochastic);
#pragma unroll
    for (int w = 0; w < 2; ++w)
      words[w] = pair(y[4 * w], y[4 * w + 1]) | pair(y[4 * w + 2], y[4 * w + 3]) << 16;
  }
  template <bool kStochastic>
  __device__ void values(const float (&y)[8], const Philox&, float (&to)[8]) const {
    static_assert(!kStochastic);
#pragma unroll
    for (int j = 0; j < 8; j += 2) unpair(pair(y[j], y[j + 1]), to[j], to[j + 1]);
  }
  // For runs that are not usual, as FloatCoder.
  template <bool kStochastic, int V>
  __device__ void encode(const Shared&, const float (&y)[V], const std::uint32_t (&)[V],
                         std::uint32_t (&codes)[V]) const {
    constexpr codec::SmallFloat kFormat(kExponent, kMantissa);
#pragma unroll
    for (int j = 0; j < V; ++j) codes[j] = codec::encode_float(kFormat, y[j]);
  }
  template <bool kStochastic, int V>
  __device__ void round(const Shared& s, const float (&y)[V], const std::uint32_t (&draws)[V],
                        float (&values)[V]) const {
    std::uint32_t codes[V];
    encode<kStochastic>(s, y, draws, codes);
#pragma unroll
    for (int j = 0; j < V; ++j) values[j] = codec::decode_float(kExponent, kMantissa, codes[j]);
  }

 private:
  __device__ static std::uint32_t pair(float low, float high) {
    std::uint16_t bits;
    if constexpr (kExponent == 4)
      asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(bits) : "f"(high), "f"(low));
    else
      asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(bits) : "f"(high), "f"(low));
    return bits;
  }
  __device__ static void unpair(std::uint32_t codes, float& low, float& high) {
    std::uint32_t halves;
    const auto bits = static_cast<std::uint16_t>(codes);
    if constexpr (kExponent == 4)
      asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(bits));
    else
      asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(halves) : "h"(bits));
    asm("{ .reg .f16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b; }"
        : "=f"(low), "=f"(high)
        : "r"(halves));
  }
};

using Rule = RuleOf<IntCodes>;

// ---- codes of any runs -------------------------------------------------------------------------

// N steps as Division sees them, for runs that are not usual.
template <int N>
struct Steps {
  float step_[N];
  __device__ float step(int j) const { return step_[j % N]; }
  __device__ float zero(int) const { return 0; }
};

// Values to codes, or to the values of their codes; `Out` as in codes.cuh.
template <class Out, bool kStochastic, class Codes, int N, Quotients kQuotients, int V>
__device__ void apply(const RuleOf<Codes>& rule, const Steps<N>& steps,
                      const Division<kQuotients, N>& division, const float (&x)[V],
                      const std::uint32_t (&noise)[V], Out (&out)[V]) {
  float y[V];
  division.template operator()<false>(steps, x, y);
  typename Codes::Shared none;
  if constexpr (std::is_same_v<Out, std::uint8_t>) {
    std::uint32_t codes[V];
    rule.coder.template encode<kStochastic>(none, y, noise, codes);
#pragma unroll
    for (int j = 0; j < V; ++j) out[j] = static_cast<std::uint8_t>(codes[j]);
  } else {
    rule.coder.template round<kStochastic>(none, y, noise, y);
#pragma unroll
    for (int j = 0; j < V; ++j) out[j] = from_float<Out>(codec::mul(y[j], steps.step(j)));
  }
}

// Calls fn(quotients, stochastic) with the constants of a spec.
template <class F>
void with_options(const QuantSpec& spec, F&& fn) {
  using Reciprocal = std::integral_constant<Quotients, Quotients::Reciprocal>;
  using Divide = std::integral_constant<Quotients, Quotients::Divide>;
  const bool noise = spec.rounding == Rounding::Stochastic;
  if (spec.scaling == Scaling::Reciprocal)
    noise ? fn(Reciprocal{}, std::true_type{}) : fn(Reciprocal{}, std::false_type{});
  else
    noise ? fn(Divide{}, std::true_type{}) : fn(Divide{}, std::false_type{});
}

}  // namespace nibble::cuda::one_pass
