// Rows by where they go: what sums rows into a table walks its destinations in parallel.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/cpu/loops.h"

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

// One row of y, summed in its compute type and rounded once: add(total) adds what there is to it.
template <class D, class C, class F>
void sum_into_row(D* y, std::vector<C>& total, F add) {
  const auto cols = static_cast<std::int64_t>(total.size());
  map_range(
      total.data(), 0, cols, [](C v) { return v; }, y);
  add(total.data());
  map_range(
      y, 0, cols, [](C v) { return v; }, total.data());
}

// table [rows, cols] += the sources of each of its rows in order: add(total, source).
template <class D, class F>
void sum_by_destination(D* table, std::int64_t rows, std::int64_t cols, const Groups& groups,
                        F add) {
  constexpr std::int64_t kRows = 256;
  parallel_for(rows, kRows, [&](std::int64_t begin, std::int64_t end) {
    std::vector<compute_t<D>> total(static_cast<std::size_t>(cols));
    for (std::int64_t d = begin; d < end; ++d) {
      const auto first = groups.start[static_cast<std::size_t>(d)],
                 last = groups.start[static_cast<std::size_t>(d) + 1];
      if (first == last) continue;
      sum_into_row(table + d * cols, total, [&](compute_t<D>* sum) {
        for (std::int64_t k = first; k < last; ++k)
          add(sum, groups.source[static_cast<std::size_t>(k)]);
      });
    }
  });
}

}  // namespace nibble::cpu
