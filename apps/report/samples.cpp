#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <span>

#include "apps/report/charts.h"
#include "apps/report/page.h"

namespace nibble::report {
namespace {

constexpr std::size_t kSteps = 12;    // shown of a run at most, the first and the last among them
constexpr std::size_t kPrompts = 20;  // of a step
constexpr std::size_t kBytes = 1500;  // of a text

// At most `limit` bytes of a text, cut between characters.
std::string shortened(const std::string& text, std::size_t limit) {
  if (text.size() <= limit) return escape(text);
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xC0) == 0x80) --limit;
  return escape(text.substr(0, limit)) + "…";
}

std::string of_step(const std::vector<const SampleRow*>& rows) {
  std::string out;
  for (const SampleRow* r : std::span(rows).first(std::min(rows.size(), kPrompts)))
    out += fmt::format("<div class=\"sample\"><b>{}</b>{}{}</div>",
                       shortened(r->prompt, kBytes / 3), shortened(r->text, kBytes),
                       r->ended ? " <small>(end of the text)</small>" : "");
  return out;
}

}  // namespace

std::string samples_section(const std::vector<RunRecord>& runs) {
  std::string out;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    std::map<std::int64_t, std::vector<const SampleRow*>> by_step;
    for (const SampleRow& r : runs[i].samples) by_step[r.step].push_back(&r);
    if (by_step.empty()) continue;
    out += fmt::format("<h3><span class=\"swatch\" style=\"background:var(--c{})\"></span>{}</h3>",
                       i % 8, escape(runs[i].name));
    std::vector<std::int64_t> steps;
    for (const auto& [step, rows] : by_step) steps.push_back(step);
    const std::size_t shown = std::min(steps.size(), kSteps);
    // The last one first: it is what a reader looks for.
    for (std::size_t k = shown; k-- > 0;) {
      const std::size_t at = shown < 2 ? 0 : k * (steps.size() - 1) / (shown - 1);
      out += fmt::format("<details{}><summary>step {}</summary>{}</details>",
                         k + 1 == shown ? " open" : "", steps[at], of_step(by_step[steps[at]]));
    }
    if (steps.size() > shown)
      out += fmt::format("<p class=\"note\">{} of {} steps; all are in samples.jsonl</p>", shown,
                         steps.size());
  }
  return out.empty() ? out : "<h2>Samples</h2>" + out;
}

}  // namespace nibble::report
