#include "data/word_cutter.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <string>

#include "tensor/check.h"

namespace nibble {
namespace {

constexpr const char* kOp = "tokenizer";

// What stands in a class of the pattern. White_Space as Unicode lists it: pcre2's own \s holds
// U+180E too, which is none since Unicode 6.3.
constexpr std::string_view kSpace =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029})"
    R"(\x{202f}\x{205f}\x{3000})";
// Letters and numbers of Unicode 16, as tiktoken's: pcre2 10.42 knows those up to Unicode 14.
constexpr std::string_view kNewLetter =
    R"(\x{1c89}-\x{1c8a}\x{a7cb}-\x{a7cd}\x{a7da}-\x{a7dc}\x{105c0}-\x{105f3})"
    R"(\x{10d4a}-\x{10d65}\x{10d6f}-\x{10d85}\x{10ec2}-\x{10ec4}\x{1123f}-\x{11240})"
    R"(\x{11380}-\x{11389}\x{1138b}\x{1138e}\x{11390}-\x{113b5}\x{113b7}\x{113d1}\x{113d3})"
    R"(\x{11bc0}-\x{11be0}\x{11f02}\x{11f04}-\x{11f10}\x{11f12}-\x{11f33}\x{1342f})"
    R"(\x{13441}-\x{13446}\x{13460}-\x{143fa}\x{16100}-\x{1611d}\x{16d40}-\x{16d6c}\x{18cff})"
    R"(\x{1b132}\x{1b155}\x{1df25}-\x{1df2a}\x{1e030}-\x{1e06d}\x{1e4d0}-\x{1e4eb})"
    R"(\x{1e5d0}-\x{1e5ed}\x{1e5f0}\x{2b739}\x{2ebf0}-\x{2ee5d}\x{31350}-\x{323af})";
constexpr std::string_view kNewNumber =
    R"(\x{10d40}-\x{10d49}\x{116d0}-\x{116e3}\x{11bf0}-\x{11bf9}\x{11f50}-\x{11f59})"
    R"(\x{16130}-\x{16139}\x{16d70}-\x{16d79}\x{1ccf0}-\x{1ccf9}\x{1d2c0}-\x{1d2d3})"
    R"(\x{1e4f0}-\x{1e4f9}\x{1e5f1}-\x{1e5fa})";

// GPT-2's: contractions, letters, numbers and the rest, each with one space before it; and white
// space, which leaves its last character to the word that follows. The new ones stand apart from
// \p{L} and \p{N}, because one class of all would be searched through for every ASCII character.
std::string pattern_text() {
  return fmt::format(R"('(?:[sdmt]|ll|ve|re)| ?(?:\p{{L}}++|[{1}]++)++| ?(?:\p{{N}}++|[{2}]++)++)"
                     R"(| ?(?:(?![{1}{2}])[^{0}\p{{L}}\p{{N}}])++|[{0}]+(?![^{0}])|[{0}]++)",
                     kSpace, kNewLetter, kNewNumber);
}

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

struct CodeDelete {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct MatchDelete {
  void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
};

std::unique_ptr<pcre2_code, CodeDelete> compile_pattern() {
  const std::string text = pattern_text();
  int code = 0;
  PCRE2_SIZE offset = 0;
  std::unique_ptr<pcre2_code, CodeDelete> pattern(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &code, &offset, nullptr));
  NIBBLE_CHECK(pattern, kOp, "cannot compile the word pattern: {} at {}", pcre2_message(code),
               offset);
  // Where the system forbids code generation pcre2 interprets the pattern: same matches, slower.
  pcre2_jit_compile(pattern.get(), PCRE2_JIT_COMPLETE);
  return pattern;
}

const pcre2_code* shared_pattern() {
  static const std::unique_ptr<pcre2_code, CodeDelete> pattern = compile_pattern();
  return pattern.get();
}

}  // namespace

struct WordCutter::Match {
  const pcre2_code* pattern = shared_pattern();
  std::unique_ptr<pcre2_match_data, MatchDelete> data{
      pcre2_match_data_create_from_pattern(pattern, nullptr)};
};

WordCutter::WordCutter() : match_(std::make_unique<Match>()) {
  NIBBLE_CHECK(match_->data, kOp, "out of memory");
}
WordCutter::~WordCutter() = default;
WordCutter::WordCutter(WordCutter&&) noexcept = default;

std::size_t WordCutter::word_end(std::string_view text, std::size_t at) {
  // Known to be valid, so pcre2 need not look (at every match it would look at all of it).
  const int matched = pcre2_match(match_->pattern, reinterpret_cast<PCRE2_SPTR>(text.data()),
                                  text.size(), at, PCRE2_NO_UTF_CHECK, match_->data.get(), nullptr);
  NIBBLE_CHECK(matched > 0, kOp, "cannot cut the text into words: {}", pcre2_message(matched));
  return pcre2_get_ovector_pointer(match_->data.get())[1];
}

std::size_t last_word_border(std::string_view text) {
  for (std::size_t at = text.size(); at-- > 1;) {
    const bool space = text[at] == ' ' || (text[at] >= '\t' && text[at] <= '\r');
    if (space && text[at - 1] > ' ' && text[at - 1] < '\x7F') return at;
  }
  return 0;
}

}  // namespace nibble
