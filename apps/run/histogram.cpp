#include <algorithm>
#include <cmath>
#include <limits>

#include "apps/run/events.h"

namespace nibble::run {
namespace {

// -max … -1e-12, 0, 1e-12, 1.1e-12, … 1e20, max
std::vector<double> make_limits() {
  std::vector<double> positive;
  for (double limit = 1e-12; limit < 1e20; limit *= 1.1) positive.push_back(limit);
  positive.push_back(std::numeric_limits<double>::max());
  std::vector<double> limits;
  for (auto limit = positive.rbegin(); limit != positive.rend(); ++limit) limits.push_back(-*limit);
  limits.push_back(0);
  limits.insert(limits.end(), positive.begin(), positive.end());
  return limits;
}

}  // namespace

Histogram Histogram::of(std::span<const float> values) {
  static const std::vector<double> limits = make_limits();
  std::vector<double> counts(limits.size(), 0);
  Histogram h;
  h.min = std::numeric_limits<double>::max();
  h.max = -h.min;
  for (const float single : values) {
    const double value = single;
    if (!std::isfinite(value)) continue;
    // No float reaches the last limit, so upper_bound always finds one.
    ++counts[std::upper_bound(limits.begin(), limits.end(), value) - limits.begin()];
    h.min = std::min(h.min, value);
    h.max = std::max(h.max, value);
    h.sum += value;
    h.sum_of_squares += value * value;
    ++h.count;
  }
  if (h.count == 0) h.min = h.max = 0;

  for (std::size_t i = 0; i < limits.size(); ++i) {
    const bool merge = counts[i] == 0 && !h.bucket.empty() && h.bucket.back() == 0;
    if (merge) {
      h.limit.back() = limits[i];
    } else {
      h.limit.push_back(limits[i]);
      h.bucket.push_back(counts[i]);
    }
  }
  return h;
}

}  // namespace nibble::run
