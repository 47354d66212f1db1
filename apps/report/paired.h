// Whether one recipe is as good as another: statistics of paired runs, free of files.
// Source: the project's protocol (paired differences, one-sided 95 % bounds by Student's t, Holm).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::report {

// Student's t with `df` > 0 degrees of freedom: P(T ≤ t), and its inverse for 0 < p < 1.
double student_cdf(double t, double df);
double student_quantile(double p, double df);

struct Pair {
  std::uint64_t seed = 0;
  double baseline = 0, value = 0;  // losses; not finite where the run failed
  bool failed = false;             // by the protocol's rules, not only when not finite
  double difference() const { return value - baseline; }
};

enum class Verdict {
  Within,            // the upper bound is at most the margin
  Worse,             // the lower bound is above 0, Holm-corrected over the table
  NotDistinguished,  // neither
  TooFew,            // under 3 pairs, or under 5 for a margin of at most 0.01
  Failed,            // a run failed
};
std::string to_string(Verdict verdict);

struct Comparison {
  std::vector<Pair> pairs;
  double mean = 0, deviation = 0, lower = 0, upper = 0;  // of the differences; NaN under 2 pairs
  double p_worse = 1;                                    // one-sided, uncorrected
  Verdict verdict = Verdict::TooFew;
};

// One entry a recipe, in the order given; `margin` in the losses' unit. Worse is tested first: a
// recipe that is worse and within the margin is Within.
std::vector<Comparison> compare(std::vector<std::vector<Pair>> table, double margin);

}  // namespace nibble::report
