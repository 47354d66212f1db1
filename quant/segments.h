// How the contraction of a product with several blocks is cut into segments, whose sums are added
// in order: a part of the definition (kernels.h, int_gemm), chosen so that 66 workers (pairs of a
// GPU's multiprocessors) take equal shares (Osama et al., "Stream-K", PPoPP 2023). It follows from
// the product's shape and the result's tile, whatever device works. Plain arithmetic for host and
// device.
//
// Results are tiles of 192 × 256, numbered down the columns of strips of 8 rows of tiles. Those
// that whole turns of the workers leave over, the last ones, are split: each has a segment of
// `first` units from the start of the contraction; what is left of them, tile by tile, is divided
// evenly over the other workers, the helpers, and every helper's part of a tile is a segment. So
// workers of all tiles walk the contraction at the same pace and meet in a cache.
#pragma once

#include <algorithm>
#include <cstdint>

#include "tensor/float_types.h"

namespace nibble {

struct Segments {
  static constexpr std::uint32_t kRows = 192, kCols = 256, kStrip = 8, kWorkers = 66;
  // In codes: the least that a worker takes, what joining a part costs about, and by how much
  // helpers end sooner where tiles wait for their last parts.
  static constexpr std::int64_t kLeast = 2048, kJoin = 256, kLead = 512;

  std::uint32_t down = 1, across = 1;  // tiles
  std::uint32_t blocks = 1;            // of the contraction
  std::uint32_t unit = 1;              // blocks: what 128 codes hold, at least one; not cut
  std::uint32_t units = 1;             // of the contraction
  std::uint32_t split = 0;             // tiles
  std::uint32_t first = 0;             // units
  std::uint32_t helpers = 0;

  constexpr Segments() = default;
  constexpr Segments(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t block) {
    const auto ceil_div = [](std::int64_t a, std::int64_t b) { return (a + b - 1) / b; };
    block = std::clamp<std::int64_t>(block, 1, std::max<std::int64_t>(k, 1));
    const std::int64_t each = std::max<std::int64_t>(1, 128 / block),  // blocks of a unit
        all = ceil_div(k, block), count = ceil_div(all, each);
    const std::int64_t tiles = ceil_div(m, kRows) * ceil_div(n, kCols);
    down = static_cast<std::uint32_t>(ceil_div(m, kRows));
    across = static_cast<std::uint32_t>(ceil_div(n, kCols));
    blocks = static_cast<std::uint32_t>(all);
    unit = static_cast<std::uint32_t>(each);
    units = static_cast<std::uint32_t>(count);

    const std::int64_t left = tiles % kWorkers;
    std::int64_t workers = std::min({std::int64_t{kWorkers}, left * count, left * k / kLeast});
    // Shares are counted in 32 bits.
    if (workers <= left || left * count * (kWorkers + 1) >= UINT32_MAX) return;
    std::int64_t share = ceil_div(left * count, workers);
    if (tiles < kWorkers) {
      const std::int64_t lead = ceil_div(kLead, each * block);
      // Helpers of one part each are worth some workers that idle.
      const std::int64_t even = workers / left * left;
      if (even > left && ceil_div(left * count, even) <= share + lead) {
        workers = even;
        share = ceil_div(left * count, even);
      }
      share += lead;
    }
    // Fewer units at the end by at least a 32nd of all that a worker takes.
    const std::int64_t turns = ceil_div(tiles, kWorkers) * count;
    const std::int64_t join = ceil_div(kJoin, each * block) * workers / left;
    if (share >= count || (count - share - join) * 32 < turns) return;
    split = static_cast<std::uint32_t>(left);
    first = static_cast<std::uint32_t>(share);
    helpers = static_cast<std::uint32_t>(workers - left);
  }

  NIBBLE_HD constexpr std::uint32_t tiles() const { return down * across; }
  NIBBLE_HD constexpr std::uint32_t tile_of(std::uint32_t row, std::uint32_t col) const {
    const std::uint32_t i = row / kRows, top = i / kStrip * kStrip;
    return top * across + col / kCols * height(top) + i - top;
  }
  NIBBLE_HD constexpr std::uint32_t row_of(std::uint32_t tile) const {
    const std::uint32_t top = tile / (kStrip * across) * kStrip;
    return (top + tile % (kStrip * across) % height(top)) * kRows;
  }
  NIBBLE_HD constexpr std::uint32_t col_of(std::uint32_t tile) const {
    const std::uint32_t top = tile / (kStrip * across) * kStrip;
    return tile % (kStrip * across) / height(top) * kCols;
  }

  NIBBLE_HD constexpr std::uint32_t whole() const { return tiles() - split; }  // tiles
  // Helpers' units, counted over all split tiles: of each of these, and where helper `index`
  // begins, and which takes unit `at`.
  NIBBLE_HD constexpr std::uint32_t rest() const { return units - first; }
  NIBBLE_HD constexpr std::uint32_t begin_of(std::uint32_t index) const {
    return split * rest() * index / helpers;
  }
  NIBBLE_HD constexpr std::uint32_t helper_of(std::uint32_t at) const {
    return ((at + 1) * helpers - 1) / (split * rest());
  }

  // The unit (block) after those of the segment of a tile that has unit (block) `at`.
  NIBBLE_HD constexpr std::uint32_t end_unit(std::uint32_t tile, std::uint32_t at) const {
    if (split == 0 || tile < whole()) return units;
    if (at < first) return first;
    const std::uint32_t before = (tile - whole()) * rest();
    const std::uint32_t stop = begin_of(helper_of(before + at - first) + 1) - before + first;
    return stop < units ? stop : units;
  }
  NIBBLE_HD constexpr std::uint32_t end(std::uint32_t tile, std::uint32_t at) const {
    const std::uint32_t stop = end_unit(tile, at / unit);
    return stop < units ? stop * unit : blocks;
  }

 private:
  NIBBLE_HD constexpr std::uint32_t height(std::uint32_t top) const {
    return down - top < kStrip ? down - top : kStrip;
  }
};

// A segment that a worker takes.
struct TileSegment {
  std::uint32_t tile, first, units;
  std::uint32_t slot;  // of a helper's sums (first > 0); else where those that the tile joins begin
  std::uint32_t parts;  // to join
};

// The segments of a worker, one after the other. Helpers' parts are dealt first, then whole tiles,
// then the beginnings of split ones, all in turn: parts that a tile joins are on the way for long
// and begin before it, so nobody waits in a circle, if all workers run at once or begin in order,
// kWorkers of them or one for each share.
class SegmentWalk {
 public:
  NIBBLE_HD SegmentWalk(const Segments& segments, std::uint32_t worker, std::uint32_t workers)
      : s_(segments), share_(worker), workers_(workers) {
    enter();
  }

  NIBBLE_HD bool next(TileSegment& x) {
    if (share_ >= s_.helpers + s_.tiles()) return false;
    if (share_ < s_.helpers) {
      const std::uint32_t index = at_ / s_.rest(), before = index * s_.rest(),
                          end = s_.begin_of(share_ + 1),
                          stop = end < before + s_.rest() ? end : before + s_.rest();
      x = {s_.whole() + index, s_.first + at_ - before, stop - at_, share_ + index, 0};
      at_ = stop;
      if (stop == end) leave();
      return true;
    }
    x = {share_ - s_.helpers, 0, s_.units, 0, 0};
    if (x.tile >= s_.whole()) {
      const std::uint32_t index = x.tile - s_.whole(), helper = s_.helper_of(index * s_.rest());
      x.units = s_.first;
      x.slot = helper + index;
      x.parts = s_.helper_of((index + 1) * s_.rest() - 1) - helper + 1;
    }
    leave();
    return true;
  }

 private:
  NIBBLE_HD void enter() {
    if (share_ < s_.helpers) at_ = s_.begin_of(share_);
  }
  NIBBLE_HD void leave() {
    share_ += workers_;
    enter();
  }

  const Segments& s_;
  std::uint32_t share_, workers_, at_ = 0;
};

}  // namespace nibble
