#include "data/tokenizer.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <array>
#include <limits>
#include <nlohmann/json.hpp>

#include "data/bpe_tokenizer.h"
#include "tensor/check.h"

namespace nibble {
namespace {

constexpr std::array<char, 256> make_all_bytes() {
  std::array<char, 256> bytes{};
  for (int i = 0; i < 256; ++i) bytes[i] = static_cast<char>(i);
  return bytes;
}
constexpr std::array<char, 256> kAllBytes = make_all_bytes();

[[noreturn]] void refuse_text() {
  fail("tokenizer",
       "the tokens were imported without their tokenizer: what they stand for is not known; hint: "
       "nibble tokenize --import-shards with --tokenizer");
}

std::unique_ptr<Tokenizer> unknown_from_json(const nlohmann::json& description) {
  const auto size = description.find("vocab_size");
  NIBBLE_CHECK(size != description.end() && size->is_number_integer() && *size > 0 &&
                   *size <= std::numeric_limits<std::int32_t>::max(),
               "tokenizer", "type \"unknown\": expected a \"vocab_size\" of 1 to {}",
               std::numeric_limits<std::int32_t>::max());
  return std::make_unique<UnknownTokenizer>(size->get<std::int32_t>());
}

}  // namespace

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  encode_append(text, ids);
  return ids;
}

std::vector<std::int32_t> Tokenizer::encode_with_special(std::string_view text) const {
  std::vector<std::int32_t> ids;
  while (true) {
    const std::size_t at = text.find(kEndOfText);
    encode_append(text.substr(0, at), ids);
    if (at == std::string_view::npos) return ids;
    ids.push_back(end_of_text());
    text.remove_prefix(at + kEndOfText.size());
  }
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const std::int32_t id : ids) text += token_bytes(id);
  return text;
}

std::string_view ByteTokenizer::token_bytes(std::int32_t id) const {
  NIBBLE_CHECK(id >= 0 && id < vocab_size(), "tokenizer", "got token {} expected 0 to {}", id,
               vocab_size() - 1);
  return id == end_of_text() ? kEndOfText : std::string_view(&kAllBytes[id], 1);
}

void ByteTokenizer::encode_append(std::string_view text, std::vector<std::int32_t>& ids) const {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  ids.insert(ids.end(), bytes, bytes + text.size());
}

nlohmann::json ByteTokenizer::to_json() const { return {{"type", "byte"}}; }

UnknownTokenizer::UnknownTokenizer(std::int32_t vocab_size) : vocab_size_(vocab_size) {
  NIBBLE_CHECK(vocab_size > 0, "tokenizer", "got a vocabulary of {} tokens expected at least 1",
               vocab_size);
}

std::string_view UnknownTokenizer::token_bytes(std::int32_t) const { refuse_text(); }

void UnknownTokenizer::encode_append(std::string_view, std::vector<std::int32_t>&) const {
  refuse_text();
}

nlohmann::json UnknownTokenizer::to_json() const {
  return {{"type", "unknown"}, {"vocab_size", vocab_size_}};
}

std::unique_ptr<Tokenizer> make_tokenizer(const nlohmann::json& description) {
  const auto type = description.is_object() ? description.find("type") : description.end();
  NIBBLE_CHECK(type != description.end() && type->is_string(), "tokenizer",
               "got a description without a \"type\" expected \"byte\", \"bpe\" or \"unknown\"");
  if (*type == "byte") return std::make_unique<ByteTokenizer>();
  if (*type == "bpe") return std::make_unique<BpeTokenizer>(BpeTokenizer::from_json(description));
  if (*type == "unknown") return unknown_from_json(description);
  fail("tokenizer", "got type {} expected \"byte\", \"bpe\" or \"unknown\"", type->dump());
}

std::uint64_t fingerprint(const Tokenizer& tokenizer) {
  const std::string text = tokenizer.to_json().dump();
  return XXH64(text.data(), text.size(), 0);
}

}  // namespace nibble
