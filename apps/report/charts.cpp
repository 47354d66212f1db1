#include "apps/report/charts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace nibble::report {
namespace {

constexpr double kWidth = 640, kHeight = 300, kLeft = 62, kRight = 12, kTop = 12, kBottom = 40;
constexpr std::size_t kBuckets = 300;

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  void add(double x) {
    if (!std::isfinite(x)) return;
    low = std::min(low, x);
    high = std::max(high, x);
  }
  bool empty() const { return low > high; }
  void widen() {
    if (low == high) {
      const double by = low == 0 ? 1 : std::fabs(low) * 0.05;
      low -= by;
      high += by;
    }
  }
};

double scaled(double y, bool log) { return log ? (y > 0 ? std::log10(y) : NAN) : y; }

// The first values of a loss would press all others flat: the range of what comes after the first
// twentieth, and what lies beyond is cut.
Range y_range(const Chart& chart, const Range& x) {
  Range all, late;
  for (const Series& s : chart.series)
    for (std::size_t i = 0; i < s.x.size(); ++i) {
      const double y = scaled(s.y[i], chart.log_y);
      all.add(y);
      if (s.x[i] >= x.low + (x.high - x.low) * 0.05) late.add(y);
    }
  Range range = late.empty() ? all : late;
  if (!range.empty() && all.high - all.low < 2 * (range.high - range.low)) range = all;
  range.widen();
  const double pad = (range.high - range.low) * 0.04;
  range.low -= pad;
  range.high += pad;
  return range;
}

std::string polyline(const Series& s, const Chart& chart, const Range& rx, const Range& ry) {
  const auto px = [&](double x) {
    return kLeft + (x - rx.low) / (rx.high - rx.low) * (kWidth - kLeft - kRight);
  };
  const auto py = [&](double y) {
    return kHeight - kBottom -
           (scaled(y, chart.log_y) - ry.low) / (ry.high - ry.low) * (kHeight - kTop - kBottom);
  };
  std::string out, points, dots;
  const auto flush = [&] {
    if (!points.empty())
      out += fmt::format("<polyline class=\"line\" style=\"stroke:var(--c{})\" points=\"{}\"/>",
                         s.color, points);
    points.clear();
  };
  for (std::size_t i = 0; i < s.x.size(); ++i) {
    const double y = py(s.y[i]);
    if (!std::isfinite(y) || !std::isfinite(s.x[i])) {
      flush();
      continue;
    }
    points += fmt::format("{:.1f},{:.1f} ", px(s.x[i]), y);
    if (s.marked)
      dots +=
          fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.5\" style=\"fill:var(--c{})\"/>",
                      px(s.x[i]), y, s.color);
  }
  flush();
  return out + dots;
}

}  // namespace

std::string escape(const std::string& text) {
  std::string out;
  for (const char c : text) switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: out += static_cast<unsigned char>(c) < 32 && c != '\n' && c != '\t' ? ' ' : c;
    }
  return out;
}

Series thinned(const Series& s, std::size_t buckets) {
  if (s.x.size() <= 2 * buckets) return s;
  Series out{
      .name = s.name, .color = s.color, .index = s.index, .x = {}, .y = {}, .marked = s.marked};
  for (std::size_t b = 0; b < buckets; ++b) {
    const std::size_t first = s.x.size() * b / buckets, last = s.x.size() * (b + 1) / buckets;
    std::size_t least = first, most = first, odd = last;
    for (std::size_t i = first; i < last; ++i) {
      if (!std::isfinite(s.y[i])) odd = i;
      if (!(s.y[i] >= s.y[least])) least = i;
      if (!(s.y[i] <= s.y[most])) most = i;
    }
    std::array<std::size_t, 2> kept{std::min(least, most), std::max(least, most)};
    if (odd != last) kept = {first, odd};  // a gap must stay one
    std::ranges::sort(kept);
    for (std::size_t k = kept[0] == kept[1] ? 1 : 0; k < 2; ++k) {
      out.x.push_back(s.x[kept[k]]);
      out.y.push_back(s.y[kept[k]]);
    }
  }
  return out;
}

std::vector<double> ticks(double low, double high, int count) {
  const double raw = (high - low) / count, power = std::pow(10, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (const double candidate : {1.0, 2.0, 2.5, 5.0})
    if (candidate * power >= raw) {
      step = candidate * power;
      break;
    }
  std::vector<double> out;
  // Counted: a step that is lost in the rounding of a large value would be added for ever.
  const double first = std::ceil(low / step) * step;
  for (int i = 0; i <= 2 * count; ++i)
    if (const double t = first + i * step; t <= high + step * 1e-9)
      out.push_back(std::fabs(t) < step * 1e-9 ? 0 : t);
  return out;
}

std::string short_number(double x) {
  if (!std::isfinite(x)) return "–";
  const double size = std::fabs(x);
  if (size >= 1e9) return fmt::format("{:.4g}G", x / 1e9);
  if (size >= 1e6) return fmt::format("{:.4g}M", x / 1e6);
  if (size >= 1e4) return fmt::format("{:.4g}k", x / 1e3);
  return fmt::format("{:.4g}", x);
}

std::string svg(const Chart& chart) {
  Range rx;
  for (const Series& s : chart.series)
    for (const double x : s.x) rx.add(x);
  std::string out =
      fmt::format("<svg class=\"chart\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">",
                  kWidth, kHeight, escape(chart.title + " by " + chart.x_label));
  if (rx.empty())
    return out + "<text x=\"320\" y=\"150\" class=\"none\">nothing logged</text></svg>";
  rx.widen();
  const Range ry = y_range(chart, rx);
  if (ry.low > ry.high)
    return out + "<text x=\"320\" y=\"150\" class=\"none\">no finite value</text></svg>";
  const double inner_w = kWidth - kLeft - kRight, inner_h = kHeight - kTop - kBottom;
  for (const double t : ticks(ry.low, ry.high, 5)) {
    const double y = kHeight - kBottom - (t - ry.low) / (ry.high - ry.low) * inner_h;
    out += fmt::format(
        "<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
        "<text class=\"tick\" x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>",
        kLeft, kWidth - kRight, y, y, kLeft - 6, y + 4,
        short_number(chart.log_y ? std::pow(10, t) : t));
  }
  for (const double t : ticks(rx.low, rx.high, 6)) {
    const double x = kLeft + (t - rx.low) / (rx.high - rx.low) * inner_w;
    out +=
        fmt::format("<text class=\"tick\" x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                    x, kHeight - kBottom + 16, short_number(t));
  }
  out += fmt::format(
      "<text class=\"axis\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>"
      "<clipPath id=\"clip-{}\"><rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/></clipPath>"
      "<g clip-path=\"url(#clip-{})\">",
      kLeft + inner_w / 2, kHeight - 6, escape(chart.x_label), chart.id, kLeft, kTop, inner_w,
      inner_h, chart.id);
  for (std::size_t i = 0; i < chart.series.size(); ++i) {
    const Series s = thinned(chart.series[i], kBuckets);
    out +=
        fmt::format("<g class=\"series\" data-run=\"{}\" data-index=\"{}\"><title>{}</title>{}</g>",
                    s.color, s.index, escape(s.name), polyline(s, chart, rx, ry));
  }
  return out + fmt::format(
                   "</g><g class=\"read\" data-x=\"{:.9g} {:.9g}\" data-y=\"{:.9g} {:.9g}\" "
                   "data-log=\"{}\"></g></svg>",
                   rx.low, rx.high, ry.low, ry.high, chart.log_y ? 1 : 0);
}

}  // namespace nibble::report
