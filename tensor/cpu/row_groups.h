// Rows by where they go: what sums rows into a table walks its destinations in parallel.
#pragma once

#include <cstdint>
#include <vector>

namespace nibble::cpu {

// Source rows by destination, ascending within each: a counting sort.
struct Groups {
  std::vector<std::int64_t> start;   // of destination d's rows in `source`; size rows + 1
  std::vector<std::int64_t> source;  // source rows
};
// Sources whose destination is no row are left out.
inline Groups group_by_destination(const std::int32_t* index, std::int64_t n, std::int64_t rows) {
  const auto exists = [&](std::int64_t i) { return index[i] >= 0 && index[i] < rows; };
  Groups g;
  g.start.assign(static_cast<std::size_t>(rows) + 1, 0);
  for (std::int64_t i = 0; i < n; ++i)
    if (exists(i)) ++g.start[static_cast<std::size_t>(index[i]) + 1];
  for (std::size_t d = 1; d < g.start.size(); ++d) g.start[d] += g.start[d - 1];
  g.source.resize(static_cast<std::size_t>(g.start.back()));
  std::vector<std::int64_t> next(g.start.begin(), g.start.end() - 1);
  for (std::int64_t i = 0; i < n; ++i)
    if (exists(i))
      g.source[static_cast<std::size_t>(next[static_cast<std::size_t>(index[i])]++)] = i;
  return g;
}

}  // namespace nibble::cpu
