// How the tiles of a product are dealt to workers (thread blocks) that all run at once and stay:
// whole tiles in turn, and split ones, whose steps along the contraction are divided evenly over
// all workers, so that none idles (Osama et al., "Stream-K", PPoPP 2023). Plain arithmetic for host
// and device.
#pragma once

#include <cstdint>

#include "tensor/float_types.h"

namespace nibble {

struct StreamK {
  std::uint32_t tiles, steps;  // steps: of each tile
  std::uint32_t workers;
  std::uint32_t split;   // tiles that are split: the first ones
  std::uint32_t rounds;  // in which they are taken, each over all workers; 0 when split is

  // Places for the sums of parts of tiles: one for each part, and a few that stay empty.
  NIBBLE_HD std::uint32_t slots_of_round() const { return workers + (split + rounds - 1) / rounds; }
  NIBBLE_HD std::uint32_t slots() const { return split > 0 ? rounds * slots_of_round() : 0; }
  // Every worker has a step in every round, and nothing overflows.
  bool is_valid() const {
    if (workers == 0 || split > tiles || (split > 0) != (rounds > 0)) return false;
    if (split == 0) return true;
    const std::uint64_t fewest = split / rounds, most = (split + rounds - 1) / rounds;
    return fewest * steps >= workers && most * steps * (workers + 1) < UINT32_MAX &&
           std::uint64_t{split} * (rounds + 1) < UINT32_MAX;
  }
};

// A part of a tile: the steps that one worker takes.
struct TilePart {
  std::uint32_t tile, first_step, steps;
  std::uint32_t part, parts;  // which of how many, in the order of steps
  std::uint32_t slot;         // of part 0; the others follow

  // Which part ends slice `index` of `slices` of the tile's results.
  NIBBLE_HD std::uint32_t owner(std::uint32_t index, std::uint32_t slices) const {
    return index * parts / slices;
  }
  NIBBLE_HD bool is_split() const { return parts > 1; }
};

// A worker's parts, one after the other.
class StreamKWalk {
 public:
  NIBBLE_HD StreamKWalk(const StreamK& plan, std::uint32_t worker)
      : plan_(plan), worker_(worker), whole_(plan.split + worker) {}

  NIBBLE_HD bool next(TilePart& part) {
    if (unit_ == end_ && round_ < plan_.rounds) begin_round();
    if (unit_ < end_) {
      const std::uint32_t at = unit_ / plan_.steps, begin = at * plan_.steps;
      const std::uint32_t stop = end_ < begin + plan_.steps ? end_ : begin + plan_.steps;
      const std::uint32_t first = taker(begin), last = taker(begin + plan_.steps - 1);
      part = {first_tile_ + at, unit_ - begin,
              stop - unit_,     worker_ - first,
              last - first + 1, (round_ - 1) * plan_.slots_of_round() + first + at};
      unit_ = stop;
      return true;
    }
    if (whole_ >= plan_.tiles) return false;
    part = {whole_, 0, plan_.steps, 0, 1, 0};
    whole_ += plan_.workers;
    return true;
  }

  // Calls multiply(part) for each part, and end(part, late) for each once all others that it waits
  // for are under way; leave(part) when it ends late.
  template <class Multiply, class Leave, class End>
  NIBBLE_HD void run(Multiply multiply, Leave leave, End end) {
    TilePart part{}, left{};
    while (next(part)) {
      multiply(part);
      const bool is_last = unit_ == end_;  // of the round
      if (part.is_split() && !is_last) {
        leave(part);
        left = part;
        continue;
      }
      end(part, false);
      if (is_last && left.is_split()) {
        end(left, true);
        left.parts = 0;
      }
    }
  }

 private:
  NIBBLE_HD void begin_round() {
    first_tile_ = plan_.split * round_ / plan_.rounds;
    units_ = (plan_.split * (round_ + 1) / plan_.rounds - first_tile_) * plan_.steps;
    unit_ = units_ * worker_ / plan_.workers;
    end_ = units_ * (worker_ + 1) / plan_.workers;
    ++round_;
  }
  // Whose share of the round a unit is.
  NIBBLE_HD std::uint32_t taker(std::uint32_t unit) const {
    return ((unit + 1) * plan_.workers - 1) / units_;
  }

  const StreamK& plan_;
  std::uint32_t worker_, whole_;
  std::uint32_t round_ = 0, first_tile_ = 0, units_ = 0, unit_ = 0, end_ = 0;
};

}  // namespace nibble
