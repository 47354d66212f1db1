#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "apps/report/charts.h"
#include "apps/report/page.h"

namespace nibble::report {
namespace {

struct Measure {
  const char* title;
  double TelemetryRow::*value;
  double scale;
  int digits;
};
constexpr std::array kMeasures{Measure{"signal to noise, dB", &TelemetryRow::sqnr, 1, 1},
                               Measure{"clipped, %", &TelemetryRow::clipped, 100, 2},
                               Measure{"flushed to zero, %", &TelemetryRow::flushed, 100, 1},
                               Measure{"largest magnitude", &TelemetryRow::absmax, 1, 3}};
constexpr std::size_t kColumns = 24;  // steps shown at most

// Dark blue to yellow; grows in lightness alone, so it reads without colours as well.
std::string shade(double part) {
  constexpr double kFrom[] = {38, 48, 92}, kTo[] = {250, 222, 110};
  const double t = part > 0 ? std::min(part, 1.0) : 0;  // NaN where a range overflows
  const auto mix = [&](int i) { return static_cast<int>(kFrom[i] + (kTo[i] - kFrom[i]) * t); };
  return fmt::format("#{:02x}{:02x}{:02x}", mix(0), mix(1), mix(2));
}

std::string map_of(const RunRecord& run, const Measure& measure) {
  std::set<std::int64_t> all;
  double low = HUGE_VAL, high = -HUGE_VAL;
  for (const auto& [key, rows] : run.telemetry)
    for (const TelemetryRow& r : rows) {
      all.insert(r.step);
      const double v = r.*measure.value * measure.scale;
      if (!std::isfinite(v)) continue;
      low = std::min(low, v);
      high = std::max(high, v);
    }
  std::vector<std::int64_t> steps(all.begin(), all.end());
  if (steps.size() > kColumns) {
    std::vector<std::int64_t> some;
    for (std::size_t i = 0; i < kColumns; ++i)
      some.push_back(steps[i * (steps.size() - 1) / (kColumns - 1)]);
    steps = some;
  }
  std::string out = fmt::format(
      "<details{}><summary>{} <small>{} to {}</small></summary><div class=\"scroll\">"
      "<table class=\"heat\"><thead><tr><th>module</th><th>operand</th>",
      measure.value == &TelemetryRow::sqnr ? " open" : "", measure.title, short_number(low),
      short_number(high));
  for (const std::int64_t s : steps) out += fmt::format("<th class=\"n\">{}</th>", s);
  out += "</tr></thead><tbody>";
  for (const auto& [key, rows] : run.telemetry) {
    out += fmt::format("<tr><td>{}</td><td>{}</td>", escape(key.first), escape(key.second));
    for (const std::int64_t s : steps) {
      const auto at = std::ranges::find(rows, s, &TelemetryRow::step);
      const double v = at == rows.end() ? NAN : (*at).*measure.value * measure.scale;
      if (!std::isfinite(v)) {
        out += "<td class=\"n\">–</td>";
        continue;
      }
      const double part = high > low ? (v - low) / (high - low) : 0.5;
      out += fmt::format("<td class=\"n\" style=\"background:{};color:{}\">{:.{}f}</td>",
                         shade(part), part > 0.5 ? "#111" : "#fff", v, measure.digits);
    }
    out += "</tr>";
  }
  return out + "</tbody></table></div></details>";
}

}  // namespace

std::string telemetry_section(const RunRecord& run, std::size_t index) {
  if (run.telemetry.empty()) return "";
  std::string out =
      fmt::format("<h3><span class=\"swatch\" style=\"background:var(--c{})\"></span>{}</h3>",
                  index % 8, escape(run.name));
  for (const Measure& m : kMeasures) out += map_of(run, m);
  return out;
}

}  // namespace nibble::report
