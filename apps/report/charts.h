// Line charts as SVG, whole without a script.
#pragma once

#include <string>
#include <vector>

namespace nibble::report {

struct Series {
  std::string name;
  int color = 0;             // of the palette, --c0 … in the page's style
  int index = 0;             // of the run
  std::vector<double> x, y;  // values that are not finite break the line
  bool marked = false;       // a dot at each point
};

struct Chart {
  std::string id, title, x_label, y_label;
  std::vector<Series> series;
  bool log_y = false;
};

// Text for HTML and for attributes in double quotes.
std::string escape(const std::string& text);
// At most `buckets` · 2 points: of each bucket along x the least and the largest y, in order.
Series thinned(const Series& s, std::size_t buckets);
// Round numbers that span [low, high], about `count` of them.
std::vector<double> ticks(double low, double high, int count);
// 12.3k, 4.5M, 0.0006
std::string short_number(double x);
std::string svg(const Chart& chart);

}  // namespace nibble::report
