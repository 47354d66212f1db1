// How the contraction of a product is cut (quant/segments.h).
#include <doctest/doctest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "quant/segments.h"

using namespace nibble;

namespace {

struct Shape4 {
  std::int64_t m, n, k, block;
};
constexpr Shape4 kShapes[] = {{768, 768, 32768, 256},
                              {768, 768, 32768, 128},
                              {2304, 768, 32768, 256},
                              {3072, 768, 32768, 256},
                              {768, 3072, 32768, 256},
                              {1600, 1600, 8192, 256},
                              {1600, 1600, 32768, 256},
                              {4800, 1600, 8192, 256},
                              {1600, 6400, 8192, 256},
                              {6400, 1600, 16384, 256},
                              {50304, 768, 2048, 256},
                              {50304, 768, 32768, 256},
                              {4096, 4096, 4096, 256},
                              {8192, 1600, 6400, 128},
                              {32768, 768, 768, 128},
                              {5, 18, 8193, 32},
                              {5, 18, 10300, 100},
                              {5, 18, 10300, 5000},
                              {193, 257, 9001, 1},
                              {200, 18, 10300, 31},
                              {2100, 2100, 8300, 256},
                              {64, 64, 14336, 4096},
                              {1, 1, 1, 1},
                              {1, 1, 0, 1},
                              {768, 768, 131072, 64},
                              {13000, 13000, 5000, 128}};

}  // namespace

TEST_CASE("segments: they cover the contraction of every tile once, in order, by equal workers") {
  for (const auto& [m, n, k, block] : kShapes) {
    CAPTURE(m);
    CAPTURE(n);
    CAPTURE(k);
    CAPTURE(block);
    const Segments s(m, n, k, block);
    REQUIRE(s.blocks == (k + block - 1) / block);
    CHECK(s.unit == (block >= 128 ? 1 : std::min<std::int64_t>(128 / block, 128)));
    CHECK(s.split + s.helpers <= Segments::kWorkers);
    // What each helper takes, and which slots its parts and those that tiles join have.
    std::vector<std::uint32_t> takes(s.helpers), slots(s.split + s.helpers);
    for (std::uint32_t tile = 0; tile < s.tiles(); ++tile) {
      REQUIRE(s.tile_of(s.row_of(tile), s.col_of(tile)) == tile);
      REQUIRE(
          s.tile_of(static_cast<std::uint32_t>(std::min<std::int64_t>(s.row_of(tile) + 191, m - 1)),
                    static_cast<std::uint32_t>(
                        std::min<std::int64_t>(s.col_of(tile) + 255, n - 1))) == tile);
      std::vector<std::uint32_t> ends;
      for (std::uint32_t at = 0; at < s.blocks;) {
        const std::uint32_t stop = s.end(tile, at);
        REQUIRE(stop > at);
        REQUIRE(stop <= s.blocks);
        for (std::uint32_t i = at; i < stop; i += std::max(1u, (stop - at) / 7))
          REQUIRE(s.end(tile, i) == stop);
        if (ends.empty()) {
          CHECK(stop == (tile >= s.whole() ? s.first * s.unit : s.blocks));
        } else {
          const std::uint32_t index = tile - s.whole(),
                              from = index * s.rest() + at / s.unit - s.first,
                              helper = s.helper_of(from);
          REQUIRE(helper < s.helpers);
          CHECK(s.begin_of(helper) <= from);
          CHECK(s.begin_of(helper + 1) > from);
          takes[helper] += (stop - at + s.unit - 1) / s.unit;
          ++slots[helper + index];
        }
        ends.push_back(stop);
        at = stop;
      }
      if (s.blocks > 0) CHECK(ends.back() == s.blocks);
      if (tile < s.whole()) CHECK(ends.size() <= 1);
    }
    CHECK(std::ranges::all_of(slots, [](std::uint32_t x) { return x <= 1; }));
    if (s.split == 0) continue;
    const auto [least, most] = std::ranges::minmax(takes);
    CHECK(most - least <= 1);
    CHECK(most <= s.first);
    // A worker takes at most one unit more than its share, but those whom others wait for take
    // less.
    const std::int64_t unit = s.unit * std::min(block, k);
    const std::uint32_t workers = s.split + s.helpers,
                        lead = s.whole() == 0 ? static_cast<std::uint32_t>((511 + unit) / unit) : 0;
    CHECK((s.first - lead - 1) * workers < s.split * s.units);
    CHECK(s.split * s.units <= (s.first - lead) * workers);
  }
}

// Every segment of the definition is taken once; and all workers come to an end, few or many, when
// each runs until it waits for a part that has not been left yet: all of them at once, or where
// they are as many as the definition has, `running` of them, the next one when one ends.
TEST_CASE("segments: workers take each of them once and nobody waits in a circle") {
  for (const auto& [m, n, k, block] : kShapes)
    for (const auto& [asked, running] : std::vector<std::pair<std::uint32_t, std::uint32_t>>{
             {1, 1}, {7, 7}, {57, 57}, {66, 66}, {80, 80}, {66, 1}, {66, 2}, {66, 9}, {66, 40}}) {
      const Segments s(m, n, k, block);
      if (s.tiles() > 2000) continue;
      const std::uint32_t workers =
          running < asked ? std::min(asked, s.tiles() + s.helpers) : asked;
      CAPTURE(workers);
      CAPTURE(running);
      std::vector<std::vector<TileSegment>> of(workers);
      std::vector<std::uint32_t> units(s.tiles());
      for (std::uint32_t worker = 0; worker < workers; ++worker) {
        SegmentWalk walk(s, worker, workers);
        for (TileSegment x{}; walk.next(x);) {
          of[worker].push_back(x);
          units[x.tile] += x.units;
          if (x.units > 0) REQUIRE(s.end_unit(x.tile, x.first) == x.first + x.units);
        }
      }
      CHECK(std::ranges::all_of(units, [&](std::uint32_t x) { return x == s.units; }));
      std::vector<std::uint32_t> at(workers), left(s.split + s.helpers), parts(s.tiles());
      std::uint32_t ended = 0;
      for (bool moved = true; moved;) {
        moved = false;
        std::uint32_t begun = std::min(running, workers);
        for (std::uint32_t worker = 0; worker < begun; ++worker)
          if (at[worker] == of[worker].size() && begun < workers) ++begun;
        for (std::uint32_t worker = 0; worker < begun; ++worker)
          for (; at[worker] < of[worker].size(); ++at[worker], moved = true) {
            const TileSegment& x = of[worker][at[worker]];
            if (x.first > 0) {
              REQUIRE(left[x.slot] == 0);
              left[x.slot] = x.tile + 1;
              ++parts[x.tile];
              continue;
            }
            std::uint32_t there = 0;
            for (; there < x.parts && left[x.slot + there] == x.tile + 1;) ++there;
            if (there < x.parts) break;
            CHECK(parts[x.tile] == x.parts);
            ++ended;
          }
      }
      CHECK(ended == s.tiles());
    }
}

TEST_CASE("segments: only where workers end sooner, and not below 2048 codes") {
  const auto split = [](std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t block) {
    return Segments(m, n, k, block).split;
  };
  CHECK(split(768, 768, 32768, 256) == 12);
  CHECK(split(3072, 768, 32768, 256) == 48);
  CHECK(split(1600, 6400, 8192, 256) == 225 - 3 * 66);
  CHECK(split(1600, 1600, 8192, 256) == 0);   // 63 of 66 workers are at work
  CHECK(split(50304, 768, 32768, 256) == 0);  // 786 tiles are 11.9 turns
  CHECK(split(66 * 192, 256, 32768, 256) == 0);
  CHECK(split(67 * 192, 256, 32768, 256) == 1);
  CHECK(split(192, 256, 4095, 128) == 0);
  CHECK(split(192, 256, 4096, 128) == 1);
  CHECK(split(192, 256, 32768, 32768) == 0);  // one block
  CHECK(Segments(192, 256, 8192, 128).helpers == 3);
  CHECK(Segments(768, 768, 32768, 256).helpers == 4 * 12);  // one part each, so six workers idle
  CHECK(Segments(3072, 768, 32768, 256).helpers == 66 - 48);
  CHECK(split(768, 768, 2000000000, 1) == 0);  // beyond what 32 bits count
}
