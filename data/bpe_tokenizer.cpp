#include "data/bpe_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "data/bpe_merges.h"
#include "data/byte_source.h"
#include "data/utf8.h"
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

// GPT-2 spells a byte by the character of its number when that is printable, and the remaining 68
// by U+0100 upwards.
std::array<std::string, 256> byte_spellings() {
  std::array<std::string, 256> spellings;
  unsigned next = 0x100;
  for (unsigned b = 0; b < 256; ++b) {
    const bool printable =
        (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
    const unsigned code = printable ? b : next++;
    if (code < 0x80) {
      spellings[b].push_back(static_cast<char>(code));
    } else {
      spellings[b].push_back(static_cast<char>(0xC0 | code >> 6));
      spellings[b].push_back(static_cast<char>(0x80 | (code & 0x3F)));
    }
  }
  return spellings;
}

// The bytes of a token string, empty when it has a character that spells no byte.
std::string unspell(std::string_view token,
                    const std::unordered_map<std::string_view, unsigned char>& byte_of) {
  std::string bytes;
  while (!token.empty()) {
    const std::size_t length = static_cast<unsigned char>(token[0]) < 0x80 ? 1 : 2;
    const auto found = byte_of.find(token.substr(0, length));
    if (found == byte_of.end()) return {};
    bytes += static_cast<char>(found->second);
    token.remove_prefix(std::min(length, token.size()));
  }
  return bytes;
}

// The tokens of short, frequent words; a full slot is simply taken over. 2 MiB.
class WordCache {
 public:
  struct alignas(64) Entry {
    std::uint8_t length = 0;
    std::uint8_t count = 0;
    std::array<char, 30> bytes;
    std::array<std::int32_t, 8> ids;
  };

  static constexpr std::size_t kMaxBytes = std::tuple_size_v<decltype(Entry::bytes)>;

  // Null when the word is too long to be kept.
  Entry* slot(std::string_view word) {
    if (word.size() > kMaxBytes) return nullptr;
    return &entries_[XXH3_64bits(word.data(), word.size()) % kEntries];
  }
  static bool holds(const Entry& entry, std::string_view word) {
    return entry.length == word.size() &&
           std::memcmp(entry.bytes.data(), word.data(), word.size()) == 0;
  }
  static void put(Entry& entry, std::string_view word, std::span<const std::int32_t> ids) {
    if (ids.size() > entry.ids.size()) return;
    entry.length = static_cast<std::uint8_t>(word.size());
    entry.count = static_cast<std::uint8_t>(ids.size());
    std::copy(word.begin(), word.end(), entry.bytes.begin());
    std::copy(ids.begin(), ids.end(), entry.ids.begin());
  }

 private:
  static constexpr std::size_t kEntries = std::size_t{1} << 15;
  std::vector<Entry> entries_ = std::vector<Entry>(kEntries);
};

// What one call of encode needs for itself.
struct Workspace {
  explicit Workspace(const pcre2_code* pattern)
      : match(pcre2_match_data_create_from_pattern(pattern, nullptr)) {
    NIBBLE_CHECK(match, kOp, "out of memory");
  }
  std::unique_ptr<pcre2_match_data, MatchDelete> match;
  WordCache cache;
  BpeMerges::Scratch merging;
  std::vector<std::int32_t> symbols;
};

}  // namespace

struct BpeTokenizer::Engine {
  explicit Engine(std::size_t merge_count) : merges(merge_count), pattern(compile_pattern()) {}

  std::unique_ptr<Workspace> take() {
    const std::lock_guard lock(mutex);
    if (idle.empty()) return std::make_unique<Workspace>(pattern.get());
    std::unique_ptr<Workspace> workspace = std::move(idle.back());
    idle.pop_back();
    return workspace;
  }
  void give_back(std::unique_ptr<Workspace> workspace) {
    const std::lock_guard lock(mutex);
    idle.push_back(std::move(workspace));
  }

  void encode_word(std::string_view word, Workspace& space, std::vector<std::int32_t>& ids) const {
    WordCache::Entry* const cached = space.cache.slot(word);
    if (cached != nullptr && WordCache::holds(*cached, word)) {
      ids.insert(ids.end(), cached->ids.begin(), cached->ids.begin() + cached->count);
      return;
    }
    space.symbols.clear();
    for (const char c : word) space.symbols.push_back(byte_ids[static_cast<unsigned char>(c)]);
    merges.apply(space.symbols, space.merging);
    ids.insert(ids.end(), space.symbols.begin(), space.symbols.end());
    if (cached != nullptr) WordCache::put(*cached, word, space.symbols);
  }

  // `text` is valid UTF-8, so pcre2 need not look (at every match it would look at all of it).
  void encode_valid(std::string_view text, Workspace& space, std::vector<std::int32_t>& ids) const {
    std::size_t at = 0;
    while (at < text.size()) {
      const int matched =
          pcre2_match(pattern.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                      PCRE2_NO_UTF_CHECK, space.match.get(), nullptr);
      NIBBLE_CHECK(matched > 0, kOp, "cannot cut the text into words: {}", pcre2_message(matched));
      const std::size_t end = pcre2_get_ovector_pointer(space.match.get())[1];
      encode_word(text.substr(at, end - at), space, ids);
      at = end;
    }
  }

  BpeMerges merges;
  std::array<std::int32_t, 256> byte_ids{};
  std::unique_ptr<pcre2_code, CodeDelete> pattern;
  std::mutex mutex;
  std::vector<std::unique_ptr<Workspace>> idle;
};

BpeTokenizer::~BpeTokenizer() = default;
BpeTokenizer::BpeTokenizer(BpeTokenizer&&) noexcept = default;

BpeTokenizer::BpeTokenizer(Tables tables)
    : tables_(std::move(tables)), engine_(std::make_unique<Engine>(tables_.merges.size())) {
  std::unordered_map<std::string_view, std::int32_t> id_of;
  for (const std::string& token : tables_.vocab) {
    const bool fresh = id_of.emplace(token, static_cast<std::int32_t>(id_of.size())).second;
    NIBBLE_CHECK(fresh, kOp, "the vocabulary holds \"{}\" twice", token);
  }
  const auto find = [&](std::string_view token) {
    const auto found = id_of.find(token);
    NIBBLE_CHECK(found != id_of.end(), kOp, "the vocabulary has no token \"{}\"", token);
    return found->second;
  };

  const std::array<std::string, 256> spellings = byte_spellings();
  std::unordered_map<std::string_view, unsigned char> byte_of;
  for (unsigned b = 0; b < 256; ++b) {
    byte_of.emplace(spellings[b], static_cast<unsigned char>(b));
    engine_->byte_ids[b] = find(spellings[b]);
  }
  end_of_text_ = find(kEndOfText);
  for (const std::string& token : tables_.vocab) {
    bytes_.push_back(unspell(token, byte_of));
    NIBBLE_CHECK(!bytes_.back().empty(), kOp, "token {} \"{}\" is not in GPT-2's spelling",
                 bytes_.size() - 1, token);
  }

  std::uint32_t rank = 0;
  for (const std::string& merge : tables_.merges) {
    const std::size_t space = merge.find(' ');
    NIBBLE_CHECK(space != std::string::npos && merge.find(' ', space + 1) == std::string::npos, kOp,
                 "merge {}: got \"{}\" expected two tokens and a space between them", rank, merge);
    const std::string left = merge.substr(0, space), right = merge.substr(space + 1);
    const bool fresh = engine_->merges.add(find(left), find(right), rank, find(left + right));
    NIBBLE_CHECK(fresh, kOp, "merge {}: \"{}\" comes twice", rank, merge);
    ++rank;
  }
}

BpeTokenizer BpeTokenizer::from_files(const std::filesystem::path& vocab_bpe,
                                      const std::filesystem::path& encoder_json, std::string name) {
  Tables tables{std::move(name), {}, {}};
  const nlohmann::json encoder = nlohmann::json::parse(read_whole_file(encoder_json), nullptr,
                                                       /*allow_exceptions=*/false);
  NIBBLE_CHECK(encoder.is_object(), kOp, "{}: expected a JSON object from token to id",
               encoder_json.string());
  tables.vocab.resize(encoder.size());
  for (const auto& [token, id] : encoder.items()) {
    const bool fits = id.is_number_unsigned() && id.get<std::size_t>() < encoder.size() &&
                      tables.vocab[id.get<std::size_t>()].empty() && !token.empty();
    NIBBLE_CHECK(fits, kOp, "{}: token \"{}\": got id {} expected each of 0 to {} once",
                 encoder_json.string(), token, id.dump(), encoder.size() - 1);
    tables.vocab[id.get<std::size_t>()] = token;
  }

  const std::string text = read_whole_file(vocab_bpe);
  std::size_t begin = text.starts_with("#version") ? text.find('\n') + 1 : 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    if (end > begin) tables.merges.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  NIBBLE_CHECK(!tables.merges.empty(), kOp, "{} holds no merges", vocab_bpe.string());
  return BpeTokenizer(std::move(tables));
}

BpeTokenizer BpeTokenizer::from_json(const nlohmann::json& description) {
  try {
    Tables tables;
    description.at("name").get_to(tables.name);
    description.at("vocab").get_to(tables.vocab);
    description.at("merges").get_to(tables.merges);
    return BpeTokenizer(std::move(tables));
  } catch (const nlohmann::json::exception& error) {
    fail(kOp, "not the description of a BPE tokenizer: {}", error.what());
  }
}

nlohmann::json BpeTokenizer::to_json() const {
  return {{"type", "bpe"},
          {"name", tables_.name},
          {"vocab", tables_.vocab},
          {"merges", tables_.merges}};
}

std::int32_t BpeTokenizer::vocab_size() const {
  return static_cast<std::int32_t>(tables_.vocab.size());
}

std::string_view BpeTokenizer::token_bytes(std::int32_t id) const {
  NIBBLE_CHECK(id >= 0 && id < vocab_size(), kOp, "got token {} expected 0 to {}", id,
               vocab_size() - 1);
  return bytes_[static_cast<std::size_t>(id)];
}

void BpeTokenizer::encode_append(std::string_view text, std::vector<std::int32_t>& ids) const {
  std::unique_ptr<Workspace> space = engine_->take();
  while (!text.empty()) {
    const std::size_t valid = valid_utf8_prefix(text);
    engine_->encode_valid(text.substr(0, valid), *space, ids);
    text.remove_prefix(valid);
    const std::size_t invalid = invalid_utf8_prefix(text);
    if (invalid > 0) engine_->encode_word(text.substr(0, invalid), *space, ids);
    text.remove_prefix(invalid);
  }
  engine_->give_back(std::move(space));
}

std::size_t BpeTokenizer::safe_cut(std::string_view text) const {
  for (std::size_t at = text.size(); at-- > 1;) {
    const bool space = text[at] == ' ' || (text[at] >= '\t' && text[at] <= '\r');
    if (space && text[at - 1] > ' ' && text[at - 1] < '\x7F') return at;
  }
  return 0;
}

}  // namespace nibble
