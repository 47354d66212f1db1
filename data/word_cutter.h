// The words of GPT-2's byte-pair encoding: what no merge reaches across.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "data/utf8.h"

namespace nibble {

// Cuts text by GPT-2's pattern. Bytes that are no valid UTF-8 stand apart: each run of them is a
// word. One thread at a time; the compiled pattern is shared by all cutters.
class WordCutter {
 public:
  WordCutter();
  ~WordCutter();
  WordCutter(WordCutter&&) noexcept;

  // visit(word) for each word in order; together they are `text`.
  template <class Visit>
  void cut(std::string_view text, Visit&& visit) {
    while (!text.empty()) {
      const std::string_view valid = text.substr(0, valid_utf8_prefix(text));
      for (std::size_t at = 0; at < valid.size();) {
        const std::size_t end = word_end(valid, at);
        visit(valid.substr(at, end - at));
        at = end;
      }
      text.remove_prefix(valid.size());
      const std::size_t invalid = invalid_utf8_prefix(text);
      if (invalid > 0) visit(text.substr(0, invalid));
      text.remove_prefix(invalid);
    }
  }

 private:
  struct Match;
  // Where the word that starts at `at` ends. `text` is valid UTF-8.
  std::size_t word_end(std::string_view text, std::size_t at);

  std::unique_ptr<Match> match_;
};

// The last offset that no word spans whatever follows `text`: between a printable ASCII character
// and white space. 0 when there is none.
std::size_t last_word_border(std::string_view text);

}  // namespace nibble
