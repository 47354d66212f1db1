// bf16 and fp8 as storage types with host-device conversions; arithmetic is done in f32.
// Conversions round to nearest even; fp8 saturates (OCP OFP8, saturating mode), NaN stays NaN.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define NIBBLE_HD __host__ __device__
#else
#define NIBBLE_HD
#endif

namespace nibble {

struct bfloat16 {
  std::uint16_t bits = 0;

  bfloat16() = default;
  NIBBLE_HD constexpr explicit bfloat16(float x) : bits(round_bits(x)) {}
  NIBBLE_HD constexpr operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
  NIBBLE_HD static constexpr bfloat16 from_bits(std::uint16_t b) {
    bfloat16 y;
    y.bits = b;
    return y;
  }

 private:
  NIBBLE_HD static constexpr std::uint16_t round_bits(float x) {
    const auto u = std::bit_cast<std::uint32_t>(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((u >> 16) | 0x40u);
    return static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
};
static_assert(sizeof(bfloat16) == 2);

// An 8-bit float: 1 sign, E exponent, M mantissa bits. e4m3 is the "fn" form without infinities
// (max 448, NaN = 0x7f); e5m2 is IEEE-like (max 57344, infinities never produced).
template <int E, int M>
struct Float8 {
  static constexpr int kBias = (1 << (E - 1)) - 1;
  static constexpr bool kFinite = (E == 4);
  static constexpr float kMax = kFinite ? 448.0f : 57344.0f;
  std::uint8_t bits = 0;

  Float8() = default;
  NIBBLE_HD constexpr explicit Float8(float x) : bits(encode(x)) {}
  NIBBLE_HD constexpr operator float() const { return decode(bits); }

  NIBBLE_HD static constexpr float decode(std::uint8_t b) {
    const std::uint32_t sign = static_cast<std::uint32_t>(b & 0x80u) << 24;
    const std::uint32_t exponent = (b >> M) & ((1u << E) - 1);
    const std::uint32_t mantissa = b & ((1u << M) - 1);
    if (kFinite ? (b & 0x7f) == 0x7f : (exponent == (1u << E) - 1 && mantissa != 0))
      return std::bit_cast<float>(sign | 0x7fc00000u);
    if (!kFinite && exponent == (1u << E) - 1) return std::bit_cast<float>(sign | 0x7f800000u);
    if (exponent == 0) {  // subnormal: mantissa · 2^(1 − bias − M), exact in f32
      const float unit =
          std::bit_cast<float>(static_cast<std::uint32_t>(127 + 1 - kBias - M) << 23);
      const float magnitude = static_cast<float>(mantissa) * unit;
      return sign ? -magnitude : magnitude;
    }
    return std::bit_cast<float>(sign | ((exponent + 127 - kBias) << 23) | (mantissa << (23 - M)));
  }

  // Rounds half to even.
  NIBBLE_HD static constexpr std::uint8_t encode(float x) {
    const auto u = std::bit_cast<std::uint32_t>(x);
    const auto sign = static_cast<std::uint8_t>((u >> 24) & 0x80u);
    const std::uint32_t a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return static_cast<std::uint8_t>(sign | 0x7f);
    constexpr std::uint8_t kMaxCode = kFinite ? 0x7e : ((((1 << E) - 2) << M) | ((1 << M) - 1));
    if (a >= std::bit_cast<std::uint32_t>(kMax)) return static_cast<std::uint8_t>(sign | kMaxCode);
    constexpr std::uint32_t kMinNormal = static_cast<std::uint32_t>(127 + 1 - kBias) << 23;
    if (a <
        kMinNormal) {  // adding 2^(23) units of the subnormal spacing rounds to even in hardware
      const float shift =
          std::bit_cast<float>(static_cast<std::uint32_t>(127 + 1 - kBias - M + 23) << 23);
      const float rounded = std::bit_cast<float>(a) + shift;
      return static_cast<std::uint8_t>(
          sign | (std::bit_cast<std::uint32_t>(rounded) - std::bit_cast<std::uint32_t>(shift)));
    }
    const std::uint32_t half = (1u << (22 - M)) - 1 + ((a >> (23 - M)) & 1u);
    const std::uint32_t code =
        ((a + half) >> (23 - M)) - (static_cast<std::uint32_t>(127 - kBias) << M);
    return static_cast<std::uint8_t>(sign | (code > kMaxCode ? kMaxCode : code));
  }
};
using float8_e4m3 = Float8<4, 3>;
using float8_e5m2 = Float8<5, 2>;

}  // namespace nibble
