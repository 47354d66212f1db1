#include "apps/train/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "tensor/check.h"
#include "tensor/rng.h"

namespace nibble::train {

std::int32_t sample(std::span<const float> logits, const SamplingOptions& options,
                    std::uint64_t index) {
  NIBBLE_CHECK(!logits.empty(), "generate", "no logits to draw from");
  for (const float x : logits)
    NIBBLE_CHECK(std::isfinite(x), "generate", "the model's logits are not finite: got {}", x);
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto logit = [&](std::int32_t id) { return logits[static_cast<std::size_t>(id)]; };
  // Ties go by id: the order, and with it the draw, is the same everywhere.
  std::sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return logit(a) != logit(b) ? logit(a) > logit(b) : a < b;
  });
  if (options.greedy || options.temperature == 0) return order.front();
  if (options.top_k > 0 && options.top_k < static_cast<std::int64_t>(order.size()))
    order.resize(static_cast<std::size_t>(options.top_k));

  std::vector<double> cumulative;
  double sum = 0;
  for (const std::int32_t id : order) {
    sum += std::exp((static_cast<double>(logit(id)) - static_cast<double>(logit(order.front()))) /
                    options.temperature);
    cumulative.push_back(sum);
  }
  const auto reaches = [&](double mass) {
    const auto at = std::lower_bound(cumulative.begin(), cumulative.end(), mass);
    return std::min<std::size_t>(static_cast<std::size_t>(at - cumulative.begin()),
                                 cumulative.size() - 1);
  };
  const double kept = cumulative[reaches(options.top_p * sum)];
  const Philox draw =
      philox4x32_10(static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                    rng_site("generate", "token"), 0, options.seed);
  const auto above = std::upper_bound(cumulative.begin(), cumulative.end(),
                                      static_cast<double>(uniform01(draw.v[0])) * kept);
  return order[std::min<std::size_t>(static_cast<std::size_t>(above - cumulative.begin()),
                                     order.size() - 1)];
}

}  // namespace nibble::train
