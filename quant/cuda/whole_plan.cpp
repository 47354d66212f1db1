#include "quant/cuda/whole_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace nibble::cuda {
namespace {

constexpr std::uint32_t kMinSteps = 4;  // of a part

// Microseconds on an H200, fitted to tests/bench/results/2026-11-29-gemmb.md: of a step and of the
// results of a tile, and of joining parts.
struct Costs {
  std::uint32_t columns;
  double step, results, join;
};
constexpr Costs kCosts[] = {{256, 0.625, 3.3, 25}, {192, 0.475, 2.6, 22}, {128, 0.34, 1.9, 17}};
constexpr double kLaunch = 4;
// Parts of all tiles at once read operands at places of the contraction far from each other: they
// do not meet in the L2 when it does not hold the operands.
constexpr double kCache = 48e6, kApart = 1.5;

double estimate(const Costs& cost, std::uint32_t rounds, std::int64_t m, std::int64_t n,
                std::int64_t k, std::uint32_t clusters) {
  const std::int64_t tiles = (m + 255) / 256 * ((n + cost.columns - 1) / cost.columns),
                     steps = (k + 127) / 128, rest = tiles % clusters;
  const double tile = static_cast<double>(steps) * cost.step + cost.results;
  const auto turns = static_cast<double>(tiles / clusters);
  if (rounds == 0 || rest == 0) return kLaunch + (turns + (rest > 0 ? 1 : 0)) * tile;
  const bool apart = turns == 0 && static_cast<double>((m + n) * k) > kCache;
  const double share = static_cast<double>(rest * steps) / clusters * cost.step;
  return kLaunch + turns * tile + share * (apart ? kApart : 1) + cost.join;
}

}  // namespace

StreamK deal(std::uint32_t tiles, std::uint32_t steps, std::uint32_t rounds,
             std::uint32_t clusters) {
  const StreamK whole{tiles, steps, std::min(clusters, tiles), 0, 0};
  const std::uint32_t split = tiles % clusters;
  if (rounds == 0 || split == 0) return whole;
  StreamK plan{tiles, steps, clusters, split, std::min(rounds, split)};
  if (tiles < clusters) plan.workers = std::min(clusters, split / plan.rounds * steps / kMinSteps);
  const bool helps = plan.workers > whole.workers || tiles > clusters;
  return helps && plan.is_valid() ? plan : whole;
}

std::uint32_t strip_of(const StreamK& plan) {
  constexpr std::uint32_t kWholeStrip = 8;
  if (plan.split < plan.tiles) return kWholeStrip;
  const double at_once = static_cast<double>(plan.split) / plan.rounds;
  return std::max(1u, static_cast<std::uint32_t>(std::lround(std::sqrt(at_once))));
}

WholePlan whole_plan(const IntPlan& plan, std::int64_t m, std::int64_t n, std::int64_t k,
                     std::uint32_t clusters) {
  if (plan.columns > 0) return {plan.columns, plan.rounds};
  WholePlan best{};
  double least = std::numeric_limits<double>::infinity();
  for (const Costs& cost : kCosts)
    for (const std::uint32_t rounds : kWholeRounds) {
      if (rounds > 0 && k < kWholeMinSplit) continue;
      const double us = estimate(cost, rounds, m, n, k, clusters);
      if (us < least) least = us, best = {cost.columns, rounds};
    }
  return best;
}

}  // namespace nibble::cuda
