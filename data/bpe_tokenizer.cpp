#include "data/bpe_tokenizer.h"

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
#include "data/byte_spelling.h"
#include "data/word_cutter.h"
#include "tensor/atomic_file.h"
#include "tensor/check.h"
#include "tensor/json_text.h"

namespace nibble {
namespace {

constexpr const char* kOp = "tokenizer";

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
  WordCutter words;
  WordCache cache;
  BpeMerges::Scratch merging;
  std::vector<std::int32_t> symbols;
};

}  // namespace

struct BpeTokenizer::Engine {
  explicit Engine(std::size_t merge_count) : merges(merge_count) {}

  std::unique_ptr<Workspace> take() {
    const std::lock_guard lock(mutex);
    if (idle.empty()) return std::make_unique<Workspace>();
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

  BpeMerges merges;
  std::array<std::int32_t, 256> byte_ids{};
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

  const ByteSpelling& spelling = byte_spelling();
  for (unsigned b = 0; b < 256; ++b) {
    engine_->byte_ids[b] = find(spelling.of(static_cast<unsigned char>(b)));
  }
  end_of_text_ = find(kEndOfText);
  for (const std::string& token : tables_.vocab) {
    bytes_.push_back(spelling.unspell(token));
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
  const auto encoder = parse_json<nlohmann::json>(read_whole_file(encoder_json));
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

void BpeTokenizer::write_files(const std::filesystem::path& folder) const {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  NIBBLE_CHECK(!error, kOp, "cannot create {}: {}", folder.string(), error.message());
  std::string encoder;  // by id, as GPT-2's own is
  for (std::size_t id = 0; id < tables_.vocab.size(); ++id) {
    encoder +=
        fmt::format("{}{}: {}", id == 0 ? "{" : ", ", nlohmann::json(tables_.vocab[id]).dump(), id);
  }
  std::string merges = "#version: 0.2\n";
  for (const std::string& merge : tables_.merges) merges += merge + "\n";
  write_file_atomically(folder / kVocabBpeFile, merges, kOp);
  write_file_atomically(folder / kEncoderFile, encoder + "}\n", kOp);
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
  space->words.cut(text, [&](std::string_view word) { engine_->encode_word(word, *space, ids); });
  engine_->give_back(std::move(space));
}

std::size_t BpeTokenizer::safe_cut(std::string_view text) const { return last_word_border(text); }

}  // namespace nibble
