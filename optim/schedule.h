// Learning-rate schedules: pure functions of the step.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace nibble {

// Linear warm-up from peak/warmup over `warmup` steps, then by kind: cosine or linear decay from
// peak to floor·peak at `total`; constant; or warm-up–stable–decay: constant until total − decay,
// then linear to floor·peak. Steps count from 0; beyond `total` the floor holds.
struct Schedule {
  enum class Kind : std::uint8_t { Cosine, Linear, Constant, WarmupStableDecay };
  Kind kind = Kind::Cosine;
  double peak = 6e-4;
  double floor = 0.1;  // share of peak
  std::int64_t warmup = 100, total = 1000, decay = 0;

  double operator()(std::int64_t step) const;
  void validate() const;  // throws Error("schedule")
};
Schedule::Kind parse_schedule(std::string_view name);  // "cosine", "linear", "constant", "wsd"
std::string_view to_string(Schedule::Kind kind);

}  // namespace nibble
