// Box-Muller in f64 for both halves of random_normal: libm's last bit differs between host and
// device, these formulas do not. Every product that feeds a sum is written std::fma; quotient and
// root are IEEE on both sides. Branch-free, so that loops over it vectorise.
//
// Largest error over 2^25 arguments of each, against long double: log 1.1 ulp, cosine and sine
// 1.04 ulp (tests/test_normal_math.cpp holds 1.5). Coefficients are our own minimax (Remez) fits.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "tensor/float_types.h"

namespace nibble::scalar {

namespace detail {

// 2^52 + w has w in its low mantissa bits: exact for any 32-bit w, and vector units have no
// unsigned conversion.
NIBBLE_HD inline double to_double(std::uint64_t w) {
  return std::bit_cast<double>(0x4330000000000000u | w) - 4503599627370496.0;
}

}  // namespace detail

// ln u for normal u in (0, 1]. u = 2^e · (1 + f) with 1 + f in [√½, √2): ln u = e ln 2 + ln(1 + f),
// and with s = f / (2 + f) ln(1 + f) = f − s · (f − R), where R = 2 (atanh(s) / s − 1) = s² P(s²).
NIBBLE_HD inline double log_unit(double u) {
  constexpr std::uint64_t kOne = 0x3ff0000000000000u, kRootHalf = 0x3fe6a09e667f3bcdu;
  const auto bits = std::bit_cast<std::uint64_t>(u);
  const std::uint64_t exponent = (bits + (kOne - kRootHalf)) >> 52;  // biased
  const double e = detail::to_double(exponent) - 1023.0;
  const double f = std::bit_cast<double>(bits - (exponent << 52) + kOne) - 1.0;
  const double s = f / (2.0 + f);
  const double z = s * s;
  double p = 0.14795869512141605;
  p = std::fma(p, z, 0.15314059192335711);
  p = std::fma(p, z, 0.18183563957331314);
  p = std::fma(p, z, 0.22222198581071254);
  p = std::fma(p, z, 0.28571428742300009);
  p = std::fma(p, z, 0.39999999999415148);
  p = std::fma(p, z, 0.6666666666666734);
  const double l = std::fma(-s, std::fma(-z, p, f), f);
  return std::fma(e, 0.6931471805599453, std::fma(e, 2.3190468138462996e-17, l));
}

struct CosSin {
  double cos, sin;
};
// Of 2πx/4 for x in [0, 4): the rest t to the nearest quarter turn is exact, |t| ≤ ½.
NIBBLE_HD inline CosSin cos_sin_quarter_turns(double x) {
  constexpr double kMagic = 6755399441055744.0;  // 1.5 · 2^52: adding it rounds to an integer
  const double shifted = x + kMagic;
  const auto quarter = std::bit_cast<std::uint64_t>(shifted);
  const double t = x - (shifted - kMagic);
  const double z = t * t;
  double p = 5.6346767225475926e-08;
  p = std::fma(p, z, -3.5986493534609642e-06);
  p = std::fma(p, z, 0.00016044115260227163);
  p = std::fma(p, z, -0.0046817541326167845);
  p = std::fma(p, z, 0.079692626246062756);
  p = std::fma(p, z, -0.64596409750624495);
  p = std::fma(p, z, 6.123233995736766e-17);  // π/2 = 1.57… + this
  const double sine = std::fma(t, 1.5707963267948966, t * p);
  double q = -6.3218944297463873e-09;
  q = std::fma(q, z, 4.7106156756495356e-07);
  q = std::fma(q, z, -2.5202036992179716e-05);
  q = std::fma(q, z, 0.00091926027422514886);
  q = std::fma(q, z, -0.020863480763315453);
  q = std::fma(q, z, 0.25366950790104692);
  q = std::fma(q, z, -1.2337005501361697);
  const double cosine = std::fma(q, z, 1.0);
  // A quarter turn maps (cos, sin) to (−sin, cos).
  const bool odd = (quarter & 1) != 0;
  const auto c = std::bit_cast<std::uint64_t>(odd ? sine : cosine);
  const auto s = std::bit_cast<std::uint64_t>(odd ? cosine : sine);
  return {std::bit_cast<double>(c ^ (((quarter + 1) & 2) << 62)),
          std::bit_cast<double>(s ^ ((quarter & 2) << 62))};
}

struct NormalPair {
  double first, second;
};
// With u = (w0 + 1) / 2^32 in (0, 1] and v = w1 / 2^32: √(−2 ln u) times cos 2πv and sin 2πv.
NIBBLE_HD inline NormalPair box_muller(std::uint32_t w0, std::uint32_t w1) {
  const double u = (detail::to_double(w0) + 1.0) * (1.0 / 4294967296.0);
  const double radius = std::sqrt(-2.0 * log_unit(u));
  const CosSin turn = cos_sin_quarter_turns(detail::to_double(w1) * (1.0 / 1073741824.0));
  return {radius * turn.cos, radius * turn.sin};
}

}  // namespace nibble::scalar
