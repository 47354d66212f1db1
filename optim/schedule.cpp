#include "optim/schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "tensor/check.h"

namespace nibble {
namespace {
constexpr std::array<std::string_view, 4> kNames{"cosine", "linear", "constant", "wsd"};
}

void Schedule::validate() const {
  NIBBLE_CHECK(peak > 0 && std::isfinite(peak), "schedule",
               "got a peak of {}, expected a positive one", peak);
  NIBBLE_CHECK(floor >= 0 && floor <= 1, "schedule",
               "got a floor of {}, expected a share of the peak in [0, 1]", floor);
  NIBBLE_CHECK(warmup >= 0 && total > 0 && decay >= 0, "schedule",
               "got warmup {}, total {}, decay {}, expected counts of steps", warmup, total, decay);
  NIBBLE_CHECK(kind != Kind::WarmupStableDecay || warmup + decay <= total, "schedule",
               "warmup {} and decay {} exceed the total of {} steps", warmup, decay, total);
}

double Schedule::operator()(std::int64_t step) const {
  if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  if (kind == Kind::Constant) return peak;
  const std::int64_t begin = kind == Kind::WarmupStableDecay ? total - decay : warmup;
  const auto length = static_cast<double>(std::max<std::int64_t>(total - begin, 1));
  const double progress = std::clamp(static_cast<double>(step - begin) / length, 0.0, 1.0);
  const double low = floor * peak;
  if (kind == Kind::Cosine)
    return low + 0.5 * (peak - low) * (1 + std::cos(std::numbers::pi * progress));
  return peak + (low - peak) * progress;
}

Schedule::Kind parse_schedule(std::string_view name) {
  for (std::size_t i = 0; i < kNames.size(); ++i)
    if (kNames[i] == name) return static_cast<Schedule::Kind>(i);
  fail("schedule", "unknown kind: got '{}', expected {}", name, fmt::join(kNames, ", "));
}
std::string_view to_string(Schedule::Kind kind) { return kNames[static_cast<std::size_t>(kind)]; }

}  // namespace nibble
