#include "apps/cli/text_layout.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibble::cli {
namespace {

constexpr std::size_t kGap = 2, kIndent = 4;

std::string padded(const std::string& cell, std::size_t width, bool left) {
  const std::string space(width - std::min(width, width_of(cell)), ' ');
  return left ? cell + space : space + cell;
}

std::string trimmed(std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

}  // namespace

std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u;
  }));
}

std::string escape_controls(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    auto c = static_cast<unsigned char>(text[i]);
    const bool c1 =
        c == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (c1) c = static_cast<unsigned char>(text[++i]);  // U+0080 to U+009F: C2 80 to C2 9F
    if (c1 || c == 0x7F || (c < 0x20 && c != '\n' && c != '\t'))
      out += fmt::format("\\x{:02X}", c);
    else
      out += text[i];
  }
  return out;
}

std::string wrap(std::string_view first, std::size_t indent, std::string_view text) {
  std::string out, line(first);
  bool fresh = line.find_first_not_of(' ') == std::string::npos;  // a break would gain nothing
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (word.empty()) continue;
    const bool gap = !line.empty() && line.back() != ' ';
    if (!fresh && width_of(line) + (gap ? 1 : 0) + width_of(word) > kColumns) {
      out += trimmed(line) + "\n";
      line = std::string(indent, ' ');
    } else if (gap) {
      line += ' ';
    }
    line += word;
    fresh = false;
  }
  return out + trimmed(line) + "\n";
}

Table::Table(std::vector<std::string> header, std::size_t left)
    : rows_{std::move(header)}, left_(left) {}

void Table::row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

std::vector<std::string> Table::lines() const {
  std::vector<std::size_t> widths(rows_.front().size());
  for (const auto& row : rows_)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  std::size_t total = 0;
  for (const std::size_t w : widths) total += w + kGap;
  const bool narrow = total > kColumns + kGap;
  std::vector<std::string> lines;
  for (const auto& row : rows_) {
    std::string line = narrow ? row[0] + "\n" + std::string(kIndent, ' ') : "";
    for (std::size_t i = narrow ? 1 : 0; i < row.size(); ++i) {
      line += padded(row[i], widths[i], i < left_);
      if (i + 1 < row.size()) line += std::string(kGap, ' ');
    }
    lines.push_back(trimmed(line));
  }
  return lines;
}

}  // namespace nibble::cli
