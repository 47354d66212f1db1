#include "data/word_cutter.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <string>

#include "tensor/check.h"

namespace nibble {
namespace {

constexpr const char* kOp = "tokenizer";

// White_Space as Unicode lists it. pcre2's own \s holds U+180E too, which is none since
// Unicode 6.3.
#define NIBBLE_SPACE                                                          \
  R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029})" \
  R"(\x{202f}\x{205f}\x{3000})"
// GPT-2's: contractions, letters, numbers and the rest, each with one space before it; and white
// space, which leaves its last character to the word that follows.
constexpr std::string_view kPattern =
    R"('(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^)" NIBBLE_SPACE
    R"(\p{L}\p{N}]++|[)" NIBBLE_SPACE R"(]+(?![^)" NIBBLE_SPACE R"(])|[)" NIBBLE_SPACE R"(]++)";
#undef NIBBLE_SPACE

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
  int code = 0;
  PCRE2_SIZE offset = 0;
  std::unique_ptr<pcre2_code, CodeDelete> pattern(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kPattern.data()), kPattern.size(),
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
