// The middle of what was measured.
#pragma once

#include <algorithm>
#include <vector>

namespace nibble::bench {

// The mean of both middle ones where their number is even; 0 of none.
inline double median(std::vector<double> x) {
  if (x.empty()) return 0;
  std::ranges::sort(x);
  return (x[(x.size() - 1) / 2] + x[x.size() / 2]) / 2;
}

}  // namespace nibble::bench
