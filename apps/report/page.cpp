#include "apps/report/page.h"

#include <fmt/format.h>

#include <cmath>
#include <functional>

#include "apps/report/charts.h"
#include "apps/report/style.h"

namespace nibble::report {
namespace {

struct Axis {
  const char* id;
  const char* label;
  std::function<double(const TrainRow&)> of_train;
  std::function<double(const ValidationRow&)> of_validation;
};
const std::vector<Axis>& axes() {
  static const std::vector<Axis> all{
      {"step", "step", [](const TrainRow& r) { return static_cast<double>(r.step); },
       [](const ValidationRow& r) { return static_cast<double>(r.step); }},
      {"tokens", "tokens", [](const TrainRow& r) { return r.tokens; },
       [](const ValidationRow& r) { return r.tokens; }},
      {"time", "seconds of training", [](const TrainRow& r) { return r.seconds; },
       [](const ValidationRow& r) { return r.seconds; }}};
  return all;
}

struct Curve {
  const char* id;
  const char* title;
  std::function<double(const TrainRow&)> train;
  std::function<double(const ValidationRow&)> validation;  // one of the two
};
const std::vector<Curve>& curves() {
  static const std::vector<Curve> all{
      {"loss", "Training loss, nats a token", [](const TrainRow& r) { return r.loss; }, {}},
      {"val", "Validation loss, nats a token", {}, [](const ValidationRow& r) { return r.loss; }},
      {"norm", "Gradient norm", [](const TrainRow& r) { return r.norm; }, {}},
      {"speed", "Tokens a second", [](const TrainRow& r) { return r.speed; }, {}},
      {"memory",
       "Peak of tensors, GiB",
       [](const TrainRow& r) { return r.memory / (1 << 30); },
       {}},
      {"lr", "Learning rate", [](const TrainRow& r) { return r.lr; }, {}}};
  return all;
}

Chart chart_of(const std::vector<RunRecord>& runs, const Curve& curve, const Axis& axis) {
  Chart chart{.id = fmt::format("{}-{}", curve.id, axis.id),
              .title = curve.title,
              .x_label = axis.label,
              .y_label = "",
              .series = {}};
  for (std::size_t i = 0; i < runs.size(); ++i) {
    Series s{.name = runs[i].name,
             .color = static_cast<int>(i % 8),
             .index = static_cast<int>(i),
             .x = {},
             .y = {},
             .marked = false};
    if (curve.train) {
      for (const TrainRow& r : runs[i].train) {
        s.x.push_back(axis.of_train(r));
        s.y.push_back(curve.train(r));
      }
    } else {
      for (const ValidationRow& r : runs[i].validation) {
        s.x.push_back(axis.of_validation(r));
        s.y.push_back(curve.validation(r));
      }
      s.marked = s.x.size() <= 60;
    }
    if (!s.x.empty()) chart.series.push_back(std::move(s));
  }
  return chart;
}

std::string legend(const std::vector<RunRecord>& runs) {
  std::string out = "<ul class=\"legend\">";
  for (std::size_t i = 0; i < runs.size(); ++i)
    out += fmt::format(
        "<li><button type=\"button\" aria-pressed=\"true\" data-index=\"{}\"><span "
        "class=\"swatch\" "
        "style=\"background:var(--c{})\"></span>{}</button></li>",
        i, i % 8, escape(runs[i].name));
  return out + "</ul>";
}

std::string charts(const std::vector<RunRecord>& runs) {
  std::string out = "<div class=\"charts\">";
  for (const Curve& curve : curves()) {
    out += fmt::format("<figure id=\"{}\"><figcaption>{}</figcaption>", curve.id, curve.title);
    for (const Axis& axis : axes())
      out +=
          fmt::format("<div class=\"by-{}\">{}</div>", axis.id, svg(chart_of(runs, curve, axis)));
    out += "</figure>";
  }
  return out + "</div>";
}

std::string problems(const std::vector<RunRecord>& runs) {
  std::string out;
  for (const RunRecord& r : runs)
    for (const std::string& p : r.problems)
      out += "<p class=\"note bad\">" + escape(r.name + ": " + p) + "</p>";
  return out;
}

}  // namespace

std::string page(const std::vector<RunRecord>& runs, const std::optional<Table>& table,
                 const Json& defaults) {
  std::string telemetry;
  for (std::size_t i = 0; i < runs.size(); ++i) telemetry += telemetry_section(runs[i], i);
  if (!telemetry.empty()) telemetry = "<h2>Quantization by layer</h2>" + telemetry;
  std::string inputs, labels;
  for (const Axis& axis : axes()) {
    inputs +=
        fmt::format("<input class=\"axis-input\" type=\"radio\" name=\"axis\" id=\"axis-{}\"{}>",
                    axis.id, std::string(axis.id) == "step" ? " checked" : "");
    labels += fmt::format("<label for=\"axis-{}\">by {}</label>", axis.id, axis.label);
  }
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
      "<meta name=\"generator\" content=\"nibble report\">"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">"
      "<title>{} run{}</title><style>{}</style></head><body>"
      "<h1>{} run{}</h1>{}{}{}<h2>Curves</h2>{}<div "
      "class=\"axes\">{}</div><main>{}{}</main>{}{}{}{}"
      "<script>{}</script></body></html>\n",
      runs.size(), runs.size() == 1 ? "" : "s", kStyle, runs.size(), runs.size() == 1 ? "" : "s",
      problems(runs), summary_table(runs), table ? "<h2>Verdicts</h2>" + verdict_table(*table) : "",
      inputs, labels, legend(runs), charts(runs), strata_table(runs), samples_section(runs),
      telemetry, config_table(runs, defaults), kScript);
}

}  // namespace nibble::report
