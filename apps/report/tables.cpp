#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "apps/report/charts.h"
#include "apps/report/page.h"

namespace nibble::report {
namespace {

std::string fixed(double x, int digits) {
  return std::isfinite(x) ? fmt::format("{:.{}f}", x, digits) : "–";
}

std::string signed_fixed(double x) { return std::isfinite(x) ? fmt::format("{:+.4f}", x) : "–"; }

std::string swatch(std::size_t i) {
  return fmt::format("<span class=\"swatch\" style=\"background:var(--c{})\"></span>", i % 8);
}

std::string duration(double seconds) {
  if (!(seconds > 0)) return "–";
  if (seconds < 120) return fmt::format("{:.0f} s", seconds);
  if (seconds < 7200) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

}  // namespace

std::string summary_table(const std::vector<RunRecord>& runs) {
  std::string out =
      "<div class=\"scroll\"><table><thead><tr><th>run</th><th>recipe</th><th>seed</th>"
      "<th class=\"n\">validation</th><th class=\"n\">bits a byte</th><th class=\"n\">training "
      "loss</th>"
      "<th class=\"n\">tokens</th><th class=\"n\">tokens/s</th><th class=\"n\">time</th>"
      "<th class=\"n\">peak memory</th><th>state</th></tr></thead><tbody>";
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const RunRecord& r = runs[i];
    const TrainRow last = r.train.empty() ? TrainRow{.loss = NAN} : r.train.back();
    const double bits = r.validation.empty() ? NAN : r.validation.back().bits;
    const bool bad = r.status == Status::Failed;
    const auto named = r.config.find("recipe");
    const std::string recipe = named != r.config.end() && named->is_string()
                                   ? named->get<std::string>()
                                   : std::string("–");
    out += fmt::format(
        "<tr><td>{}{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>"
        "<td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td "
        "class=\"n\">{}</td>"
        "<td class=\"n\">{}</td><td{}>{}</td></tr>",
        swatch(i), escape(r.name), escape(recipe), r.seed, fixed(r.final_loss(), 4), fixed(bits, 4),
        fixed(last.loss, 4), short_number(last.tokens), short_number(r.median_speed()),
        duration(last.seconds),
        std::isfinite(r.peak_memory()) ? fmt::format("{:.2f} GiB", r.peak_memory() / (1 << 30))
                                       : "–",
        bad ? " class=\"bad\"" : "", escape(r.status_text()));
  }
  return out + "</tbody></table></div>";
}

std::string verdict_table(const Table& table) {
  std::string out = fmt::format(
      "<p>Paired by seed with {} ({}); one-sided 95 % bounds, margin {}.</p>"
      "<div class=\"scroll\"><table><thead><tr><th>against the baseline</th><th>differences</th>"
      "<th class=\"n\">mean</th><th class=\"n\">lower</th><th class=\"n\">upper</th>"
      "<th>verdict</th></tr></thead><tbody>",
      escape(table.baseline.label), escape(table.metric), table.margin);
  for (std::size_t i = 0; i < table.groups.size(); ++i) {
    const Comparison& c = table.comparisons[i];
    std::string pairs;
    for (const Pair& p : c.pairs)
      pairs += fmt::format(
          "<span class=\"pair\">seed {}: {}</span> ", p.seed,
          std::isfinite(p.difference()) ? fmt::format("{:+.4f}", p.difference()) : "not finite");
    const bool bad = c.verdict == Verdict::Worse || c.verdict == Verdict::Failed;
    const bool good = c.verdict == Verdict::Within;
    out += fmt::format(
        "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>"
        "<td class=\"n\">{}</td><td class=\"{}\">{}</td></tr>",
        escape(table.groups[i].label), pairs, signed_fixed(c.mean), signed_fixed(c.lower),
        signed_fixed(c.upper), bad ? "bad" : (good ? "good" : ""), to_string(c.verdict));
  }
  out += "</tbody></table></div>";
  for (const std::string& note : table.notes) out += "<p class=\"note\">" + escape(note) + "</p>";
  return out;
}

std::string strata_table(const std::vector<RunRecord>& runs) {
  std::set<std::string> sources;
  for (const RunRecord& r : runs)
    if (!r.validation.empty())
      for (const auto& [source, loss] : r.validation.back().strata) sources.insert(source);
  if (sources.empty()) return "";
  std::string out =
      "<h2>Validation by source</h2><div class=\"scroll\"><table><thead><tr><th>source</th>";
  for (std::size_t i = 0; i < runs.size(); ++i)
    out += "<th class=\"n\">" + swatch(i) + escape(runs[i].name) + "</th>";
  out += "</tr></thead><tbody>";
  for (const std::string& source : sources) {
    out += "<tr><td>" + escape(source) + "</td>";
    for (const RunRecord& r : runs) {
      double loss = NAN;
      if (!r.validation.empty())
        if (const auto at = r.validation.back().strata.find(source);
            at != r.validation.back().strata.end())
          loss = at->second;
      out += "<td class=\"n\">" + fixed(loss, 4) + "</td>";
    }
    out += "</tr>";
  }
  return out + "</tbody></table></div>";
}

std::string config_table(const std::vector<RunRecord>& runs, const Json& defaults) {
  std::vector<std::string> keys;
  std::vector<std::map<std::string, std::string>> values;
  for (const RunRecord& r : runs) {
    auto& own = values.emplace_back();
    for (const auto& [key, value] : flatten(r.config)) {
      own[key] = value;
      if (std::ranges::find(keys, key) == keys.end()) keys.push_back(key);
    }
  }
  std::map<std::string, std::string> unset;
  for (const auto& [key, value] : flatten(defaults)) unset[key] = value;
  const auto cell = [&](std::size_t run, const std::string& key) {
    if (const auto at = values[run].find(key); at != values[run].end()) return at->second;
    const auto at = unset.find(key);
    return at == unset.end() ? std::string("–") : at->second;
  };
  std::string different, equal;
  for (const std::string& key : keys) {
    const std::string first = cell(0, key);
    bool same = true;
    for (std::size_t i = 1; i < runs.size(); ++i) same = same && cell(i, key) == first;
    if (same) {
      equal += "<tr><td>" + escape(key) + "</td><td>" + escape(first) + "</td></tr>";
      continue;
    }
    different += "<tr><td>" + escape(key) + "</td>";
    for (std::size_t i = 0; i < runs.size(); ++i)
      different += fmt::format("<td{}>{}</td>", cell(i, key) == first ? "" : " class=\"differs\"",
                               escape(cell(i, key)));
    different += "</tr>";
  }
  std::string out = "<h2>Configurations</h2>";
  if (!different.empty()) {
    out += "<div class=\"scroll\"><table><thead><tr><th>key</th>";
    for (std::size_t i = 0; i < runs.size(); ++i)
      out += "<th>" + swatch(i) + escape(runs[i].name) + "</th>";
    out += "</tr></thead><tbody>" + different + "</tbody></table></div>";
  }
  if (!equal.empty())
    out += fmt::format(
        "<details><summary>{}</summary><div class=\"scroll\"><table><tbody>{}</tbody></table></div>"
        "</details>",
        runs.size() > 1 ? "What is equal in all of them" : "All of it", equal);
  return out;
}

}  // namespace nibble::report
