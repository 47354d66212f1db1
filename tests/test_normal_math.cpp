// tensor/normal_math.h against long double libm.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "tensor/normal_math.h"
#include "tensor/rng.h"
#include "tensor/tensor.h"

using namespace nibble;

namespace {

// Distance in units of the last place of the wanted number.
double ulps(double got, long double want) {
  if (want == 0) return got == 0 ? 0 : INFINITY;
  int exponent = 0;
  (void)std::frexp(want, &exponent);
  return static_cast<double>(std::fabs(static_cast<long double>(got) - want) /
                             std::ldexp(1.0L, exponent - 53));
}

// Random words, and all words near the seams: both ends, halves of octants, √½.
std::vector<std::uint32_t> words() {
  std::vector<std::uint32_t> out;
  for (std::uint32_t i = 0; i < (1u << 17); ++i)
    for (const std::uint32_t w : philox4x32_10(i, 0, 0, 0, 9).v) out.push_back(w);
  for (std::uint32_t eighth = 0; eighth < 8; ++eighth)
    for (std::uint32_t i = 0; i < 2000; ++i) out.push_back((eighth << 29) + i - 1000);
  for (std::uint32_t i = 0; i < 2000; ++i) out.push_back(3037000499u + i - 1000);
  return out;
}

}  // namespace

TEST_CASE("normal math: log, cosine and sine are within 1.5 ulp") {
  constexpr long double kQuarterTurn = 1.57079632679489661923132169163975144L;
  double worst_log = 0, worst_cos = 0, worst_sin = 0;
  for (const std::uint32_t w : words()) {
    const double u = (w + 1.0) / 4294967296.0;
    worst_log =
        std::max(worst_log, ulps(scalar::log_unit(u), std::log(static_cast<long double>(u))));

    const std::uint64_t quarter = (std::uint64_t{w} + (1u << 29)) >> 30;
    const auto rest = static_cast<long double>(static_cast<std::int64_t>(w) -
                                               static_cast<std::int64_t>(quarter << 30));
    const long double angle = rest / 1073741824.0L * kQuarterTurn;
    const long double turned[] = {std::cos(angle), -std::sin(angle), -std::cos(angle),
                                  std::sin(angle)};
    const scalar::CosSin got = scalar::cos_sin_quarter_turns(w / 1073741824.0);
    worst_cos = std::max(worst_cos, ulps(got.cos, turned[quarter % 4]));
    worst_sin = std::max(worst_sin, ulps(got.sin, turned[(quarter + 3) % 4]));
  }
  CHECK(worst_log < 1.5);
  CHECK(worst_cos < 1.5);
  CHECK(worst_sin < 1.5);
}

TEST_CASE("normal math: whole quarter turns and the largest draw are exact") {
  const double cosines[] = {1, 0, -1, 0}, sines[] = {0, 1, 0, -1};
  for (std::size_t q = 0; q < 4; ++q) {
    const scalar::CosSin got = scalar::cos_sin_quarter_turns(static_cast<double>(q));
    CHECK(got.cos == cosines[q]);
    CHECK(got.sin == sines[q]);
  }
  CHECK(scalar::log_unit(1) == 0);
  const scalar::NormalPair most = scalar::box_muller(0, 0);  // the farthest that a draw reaches
  CHECK(most.first == doctest::Approx(std::sqrt(64 * std::log(2.0))).epsilon(1e-15));
  CHECK(most.second == 0);
}

TEST_CASE("normal math: draws have the same bits with every compiler and machine") {
  const Tensor z = Tensor::normal({100000}, 0.25, 1.5, RngKey{2026, 11});
  std::uint64_t hash = 14695981039346656037ull;  // FNV-1a over words
  for (const float v : z.to_vector())
    hash = (hash ^ std::bit_cast<std::uint32_t>(v)) * 1099511628211ull;
  CHECK(hash == 8720964818822261948u);
}
