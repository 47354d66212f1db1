#include "apps/report/paired.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace nibble::report {
namespace {

constexpr double kConfidence = 0.95;

// The continued fraction of the incomplete beta function (Lentz's evaluation).
double beta_fraction(double a, double b, double x) {
  constexpr double kTiny = 1e-300;
  const auto away_from_zero = [](double y) { return std::fabs(y) < kTiny ? kTiny : y; };
  double c = 1, d = 1 / away_from_zero(1 - (a + b) * x / (a + 1)), f = d;
  for (int m = 1; m <= 10000; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    double change = 1;
    for (const double term : {even, odd}) {
      d = 1 / away_from_zero(1 + term * d);
      c = away_from_zero(1 + term / c);
      change = c * d;
      f *= change;
    }
    if (std::fabs(change - 1) < 1e-15) break;
  }
  return f;
}

// The regularized incomplete beta function I_x(a, b).
double incomplete_beta(double a, double b, double x) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  const double front = std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) +
                                a * std::log(x) + b * std::log1p(-x));
  if (x < (a + 1) / (a + b + 2)) return front * beta_fraction(a, b, x) / a;
  return 1 - front * beta_fraction(b, a, 1 - x) / b;
}

Comparison summarize(std::vector<Pair> pairs) {
  Comparison c;
  c.pairs = std::move(pairs);
  const auto n = static_cast<double>(c.pairs.size());
  for (const Pair& p : c.pairs) c.mean += p.difference() / n;
  if (c.pairs.size() < 2) {
    c.deviation = c.lower = c.upper = std::numeric_limits<double>::quiet_NaN();
    return c;
  }
  double squares = 0;
  for (const Pair& p : c.pairs) squares += std::pow(p.difference() - c.mean, 2);
  c.deviation = std::sqrt(squares / (n - 1));
  const double error = c.deviation / std::sqrt(n);
  const double half = student_quantile(kConfidence, n - 1) * error;
  c.lower = c.mean - half;
  c.upper = c.mean + half;
  if (error > 0)
    c.p_worse = 1 - student_cdf(c.mean / error, n - 1);
  else
    c.p_worse = c.mean > 0 ? 0 : 1;
  return c;
}

}  // namespace

double student_cdf(double t, double df) {
  const double tail = incomplete_beta(df / 2, 0.5, df / (df + t * t)) / 2;
  return t > 0 ? 1 - tail : tail;
}

double student_quantile(double p, double df) {
  double low = -1, high = 1;
  while (student_cdf(low, df) > p) low *= 2;
  while (student_cdf(high, df) < p) high *= 2;
  for (int i = 0; i < 200 && high - low > 1e-13 * std::max(1.0, std::fabs(low)); ++i) {
    const double middle = (low + high) / 2;
    (student_cdf(middle, df) < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

std::string to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::Within: return "within the margin";
    case Verdict::Worse: return "worse";
    case Verdict::NotDistinguished: return "not distinguished";
    case Verdict::TooFew: return "too few pairs";
    case Verdict::Failed: return "failed";
  }
  return "?";
}

std::vector<Comparison> compare(std::vector<std::vector<Pair>> table, double margin) {
  std::vector<Comparison> all;
  for (auto& pairs : table) all.push_back(summarize(std::move(pairs)));

  const std::size_t needed = margin <= 0.01 ? 5 : 3;
  std::vector<std::size_t> tested;
  for (std::size_t i = 0; i < all.size(); ++i) {
    Comparison& c = all[i];
    if (std::ranges::any_of(
            c.pairs, [](const Pair& p) { return p.failed || !std::isfinite(p.difference()); }))
      c.verdict = Verdict::Failed;
    else if (c.pairs.size() >= 3)
      tested.push_back(i);
  }
  // Holm: the smallest p against α / m, the next against α / (m − 1), up to the first that is not.
  std::ranges::sort(tested, {}, [&](std::size_t i) { return all[i].p_worse; });
  bool rejects = true;
  for (std::size_t rank = 0; rank < tested.size(); ++rank) {
    Comparison& c = all[tested[rank]];
    rejects = rejects && c.p_worse <= (1 - kConfidence) / static_cast<double>(tested.size() - rank);
    if (c.upper <= margin && c.pairs.size() >= needed)
      c.verdict = Verdict::Within;
    else if (rejects)
      c.verdict = Verdict::Worse;
    else
      c.verdict = c.pairs.size() >= needed ? Verdict::NotDistinguished : Verdict::TooFew;
  }
  return all;
}

}  // namespace nibble::report
