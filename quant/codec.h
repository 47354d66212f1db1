// The scalar arithmetic of every format, shared by both devices so that codes agree bit for bit.
// It includes nothing of the host's. Products and sums that must round by themselves go through
// mul/add/sub/div: nvcc would fuse them.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "tensor/float_types.h"
#include "tensor/rng.h"

namespace nibble::codec {

#ifdef __CUDA_ARCH__
NIBBLE_HD inline float mul(float a, float b) { return __fmul_rn(a, b); }
NIBBLE_HD inline float add(float a, float b) { return __fadd_rn(a, b); }
NIBBLE_HD inline float sub(float a, float b) { return __fsub_rn(a, b); }
NIBBLE_HD inline float div(float a, float b) { return __fdiv_rn(a, b); }
#else
constexpr float mul(float a, float b) { return a * b; }
constexpr float add(float a, float b) { return a + b; }
constexpr float sub(float a, float b) { return a - b; }
constexpr float div(float a, float b) { return a / b; }
#endif
NIBBLE_HD inline float rne(float x) { return rintf(x); }
// Scales and zero points hold one NaN: the bits of an invalid operation's differ between devices.
NIBBLE_HD constexpr float one_nan(float x) {
  return x != x ? std::bit_cast<float>(0x7fc00000u) : x;
}
NIBBLE_HD constexpr bool is_finite(float x) {
  return (std::bit_cast<std::uint32_t>(x) & 0x7f800000u) != 0x7f800000u;
}
NIBBLE_HD constexpr float round_bf16(float x) { return static_cast<float>(bfloat16(x)); }

// ---- steps ---------------------------------------------------------------------------------

inline constexpr float kFloatMax = 3.40282346638528859812e38f;

// What x is divided or multiplied by. A zero step gives code 0 for every finite x.
NIBBLE_HD inline float divisor_of(float step) { return step == 0 ? HUGE_VALF : step; }
NIBBLE_HD inline float multiplier_of(float step) {
  if (step == 0) return 0;
  const float inverse = div(1.0f, step);  // infinite below 2^-128, where 0 · inf would be NaN
  return inverse > kFloatMax ? kFloatMax : inverse;
}

// x / d rounded once, from r = 1 / d rounded: two corrections by remainders (Markstein 1990). For
// quotient_divides(d) and |x| ≤ 2^63. Below 2^-100 remainders underflow, so the result, less than
// 2^-36 then, may be a few ulp off: more than integers and small floats need.
NIBBLE_HD constexpr bool quotient_divides(float d) { return d >= 0x1p-64f && d <= 0x1p64f; }
NIBBLE_HD inline float quotient(float x, float d, float r) {
  const float first = mul(x, r);
  const float second = std::fma(std::fma(-d, first, x), r, first);
  return std::copysign(std::fma(std::fma(-d, second, x), r, second), first);
}

// x / step − zero for either scaling; a zero point of 0 changes no bit.
NIBBLE_HD inline float divide(float x, float divisor, float zero) {
  return sub(div(x, divisor), zero);
}
NIBBLE_HD inline float multiply(float x, float multiplier, float zero) {
  return sub(mul(x, multiplier), zero);
}
NIBBLE_HD inline float divide_bf16(float x, float divisor, float zero) {
  return round_bf16(sub(round_bf16(div(round_bf16(x), divisor)), zero));
}

// The smallest power of two that is not below x > 0, at most 2^127.
NIBBLE_HD constexpr float power_of_two_above(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  if (u > 0x7f000000u) return std::bit_cast<float>(0x7f000000u);
  if (u < 0x00800000u) return std::bit_cast<float>(std::bit_ceil(u));  // subnormal
  return std::bit_cast<float>((u + 0x7fffffu) & 0x7f800000u);
}
// E8M0: byte e is 2^(e − 127), 255 is NaN. Zero tiles keep byte 0: their codes are zeros.
NIBBLE_HD constexpr float decode_e8m0(std::uint8_t e) {
  if (e == 255) return std::bit_cast<float>(0x7fc00000u);
  return std::bit_cast<float>(e == 0 ? 0x00400000u : static_cast<std::uint32_t>(e) << 23);
}
// Of a power of two; smaller ones than 2^-127 become that.
NIBBLE_HD constexpr std::uint8_t encode_e8m0(float power) {
  const auto u = std::bit_cast<std::uint32_t>(power);
  return static_cast<std::uint8_t>(u >= 0x7f800000u ? 255u : u >> 23);
}

// ---- integers ------------------------------------------------------------------------------

// Adding 1.5 · 2^23 rounds |y| < 2^22 to nearest even and leaves the integer in the low bits.
inline constexpr float kRoundMagic = 12582912.0f;
inline constexpr std::int32_t kRoundMagicBits = 0x4b400000;

// NaN takes the upper bound: the step of such a tile is not finite anyway.
#ifdef __CUDA_ARCH__
NIBBLE_HD inline float clamp(float y, float low, float high) { return fmaxf(fminf(y, high), low); }
#else
constexpr float clamp(float y, float low, float high) {
  y = y < high ? y : high;
  return y > low ? y : low;
}
#endif
NIBBLE_HD inline std::int32_t encode_integer(float y, float low, float high) {
  return std::bit_cast<std::int32_t>(add(clamp(y, low, high), kRoundMagic)) - kRoundMagicBits;
}
NIBBLE_HD inline std::int32_t encode_integer(float y, float low, float high, std::uint32_t draw) {
  return encode_integer(add(y, centred_noise(draw)), low, high);
}

// ---- small floats --------------------------------------------------------------------------

// Constants of a float with E exponent and M mantissa bits below a sign.
struct SmallFloat {
  std::uint32_t cut, half, rebias, min_normal, max_bits, sign_at;
  float magic;     // adding it rounds to the subnormal spacing
  float inv_unit;  // 1 / subnormal spacing

  NIBBLE_HD constexpr SmallFloat(int e, int m)
      : cut(static_cast<std::uint32_t>(23 - m)),
        half((1u << (cut - 1)) - 1),
        rebias(static_cast<std::uint32_t>(127 - bias(e)) << m),
        min_normal(static_cast<std::uint32_t>(128 - bias(e)) << 23),
        max_bits(std::bit_cast<std::uint32_t>(max_value(e, m))),
        sign_at(static_cast<std::uint32_t>(e + m)),
        magic(power(1 - bias(e) - m + 23)),
        inv_unit(power(bias(e) + m - 1)) {}

  NIBBLE_HD static constexpr int bias(int e) { return (1 << (e - 1)) - 1; }
  // e4m3 gives its last code to NaN, e5m2 its last exponent to infinities.
  NIBBLE_HD static constexpr float max_value(int e, int m) {
    const int top = (1 << e) - 1 - bias(e) - (e == 5 ? 1 : 0);
    const std::uint32_t mantissa = (1u << m) - 1 - (e == 4 && m == 3 ? 1u : 0u);
    return std::bit_cast<float>((static_cast<std::uint32_t>(127 + top) << 23) |
                                (mantissa << (23 - m)));
  }
  NIBBLE_HD static constexpr float power(int exponent) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(127 + exponent) << 23);
  }
};

// The sign in its place; NaN has none, since devices disagree about it.
NIBBLE_HD constexpr std::uint32_t sign_bit(const SmallFloat& f, std::uint32_t u) {
  return (u & 0x7fffffffu) > 0x7f800000u ? 0u : (u >> 31) << f.sign_at;
}
// Half to even, saturating; NaN becomes the largest value.
NIBBLE_HD inline std::uint32_t encode_float(const SmallFloat& f, float y) {
  const auto u = std::bit_cast<std::uint32_t>(y);
  const std::uint32_t sign = sign_bit(f, u);
  std::uint32_t a = u & 0x7fffffffu;
  a = a < f.max_bits ? a : f.max_bits;
  const std::uint32_t normal = ((a + f.half + ((a >> f.cut) & 1u)) >> f.cut) - f.rebias;
  const std::uint32_t subnormal =
      std::bit_cast<std::uint32_t>(add(std::bit_cast<float>(a), f.magic)) -
      std::bit_cast<std::uint32_t>(f.magic);
  return (a < f.min_normal ? subnormal : normal) | sign;
}
// The noise fills the bits below the mantissa's cut, so values on the grid stay.
NIBBLE_HD inline std::uint32_t encode_float(const SmallFloat& f, float y, std::uint32_t draw) {
  const auto u = std::bit_cast<std::uint32_t>(y);
  const std::uint32_t sign = sign_bit(f, u);
  std::uint32_t a = u & 0x7fffffffu;
  a = a < f.max_bits ? a : f.max_bits;
  const std::uint32_t noise = (2 * draw + 1) << (f.cut - 17);
  const std::uint32_t normal = ((a + noise) >> f.cut) - f.rebias;
  const float steps = mul(std::bit_cast<float>(a), f.inv_unit);  // exact below min_normal
  const auto subnormal =
      static_cast<std::uint32_t>(encode_integer(add(steps, centred_noise(draw)), 0.0f, 255.0f));
  return (a < f.min_normal ? subnormal : normal) | sign;
}
// Codes that stand for NaN or infinities (e4m3, e5m2) decode to NaN.
NIBBLE_HD constexpr float decode_float(int e, int m, std::uint32_t code) {
  const std::uint32_t magnitude = code & ((1u << (e + m)) - 1);
  const bool negative = (code >> (e + m)) & 1u;
  const std::uint32_t exponent = magnitude >> m, mantissa = magnitude & ((1u << m) - 1);
  float y = 0;
  if (exponent == 0)
    y = static_cast<float>(mantissa) * SmallFloat::power(1 - SmallFloat::bias(e) - m);
  else
    y = std::bit_cast<float>(
        ((exponent + static_cast<std::uint32_t>(127 - SmallFloat::bias(e))) << 23) |
        (mantissa << (23 - m)));
  if (y > SmallFloat::max_value(e, m)) y = std::bit_cast<float>(0x7fc00000u);
  return negative ? -y : y;
}

// ---- code books ----------------------------------------------------------------------------

// Bits in an order that agrees with <; NaN lies outside the infinities, on its sign's side.
NIBBLE_HD constexpr std::uint32_t ordered_bits(float y) {
  const auto u = std::bit_cast<std::uint32_t>(y);
  return u ^ (static_cast<std::uint32_t>(static_cast<std::int32_t>(u) >> 31) | 0x80000000u);
}
NIBBLE_HD constexpr float from_ordered(std::uint32_t key) {
  return std::bit_cast<float>(key ^ ((key >> 31) ? 0x80000000u : 0xffffffffu));
}
// The upper half of them; NaN is the largest.
NIBBLE_HD constexpr std::uint32_t book_bucket(float y) {
  return y != y ? 0xffffu : ordered_bits(y) >> 16;
}
// The number of bounds below y: the nearest value, the lower one at a tie; `start` is not above it.
NIBBLE_HD inline std::uint32_t encode_book(const float* bounds, std::uint32_t size, float y,
                                           std::uint32_t start = 0) {
  std::uint32_t code = start;
  while (code + 1 < size && y > bounds[code]) ++code;
  return code;
}
// Between the two neighbours of y with probabilities that keep the mean; `nearest` is its code.
NIBBLE_HD inline std::uint32_t round_book(const float* values, std::uint32_t size, float y,
                                          std::uint32_t nearest, std::uint32_t draw) {
  // Sums of conditions, not branches: noise would make every other prediction fail.
  const std::uint32_t low =
      nearest - (static_cast<std::uint32_t>(nearest > 0) & (values[nearest] > y ? 1u : 0u));
  const std::uint32_t room = low + 1 < size ? 1u : 0u;
  const float u = (static_cast<float>(draw) + 0.5f) * (1.0f / 65536.0f);
  const float gap = sub(values[low + room], values[low]);
  return low + (room & (mul(u, gap) < sub(y, values[low]) ? 1u : 0u));
}

// ---- decoding ------------------------------------------------------------------------------

// x̂ = (q + zero) · step, each operation rounded to bf16 where the spec's arithmetic says so.
NIBBLE_HD inline float rescale(float q, float zero, float step) { return mul(add(q, zero), step); }
NIBBLE_HD inline float rescale_bf16(float q, float zero, float step) {
  return round_bf16(mul(round_bf16(add(q, zero)), step));
}

}  // namespace nibble::codec
