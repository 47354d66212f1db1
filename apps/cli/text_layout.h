// Text for a terminal of 80 columns: tables and wrapped sentences. A character counts as one
// column.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::cli {

inline constexpr std::size_t kColumns = 80;

// Characters, not bytes, of UTF-8.
std::size_t width_of(std::string_view text);
// Lines of at most kColumns, each with its line feed: `first`, a space, the text; what does not fit
// goes on after `indent` spaces. A word that is longer than a line stays whole.
std::string wrap(std::string_view first, std::size_t indent, std::string_view text);

// Control characters (C0, DEL, C1; not line feeds and tabs) as "\\x1B": what a model or a file says
// must not steer a terminal. `text` is valid UTF-8.
std::string escape_controls(std::string_view text);

// Columns two spaces apart, the first `left` of them aligned left, the others right. When the rows
// are too wide, the first cell gets a line of its own and the others lie under it.
class Table {
 public:
  Table(std::vector<std::string> header, std::size_t left);
  void row(std::vector<std::string> cells);
  // A line each: the header, then the rows.
  std::vector<std::string> lines() const;

 private:
  std::vector<std::vector<std::string>> rows_;
  std::size_t left_;
};

}  // namespace nibble::cli
