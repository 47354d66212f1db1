// Text to token ids and back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

// How GPT-2 writes its document separator.
inline constexpr std::string_view kEndOfText = "<|endoftext|>";

// What is no token.
inline constexpr std::int32_t kNoToken = -1;

// Lossless on every byte string, valid UTF-8 or not: decode(encode(x)) == x. Const members may be
// called by several threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // "byte", "gpt2", "bpe": the word for logs and records.
  virtual std::string_view name() const = 0;
  virtual std::int32_t vocab_size() const = 0;
  virtual std::int32_t end_of_text() const = 0;
  // The bytes that a token stands for; throws for an id outside the vocabulary.
  virtual std::string_view token_bytes(std::int32_t id) const = 0;
  // Appends the ids of `text`. Special tokens in it are encoded as the ordinary text they are.
  virtual void encode_append(std::string_view text, std::vector<std::int32_t>& ids) const = 0;
  // The last offset p of `text` such that encode(head) + encode(tail + more) == encode(text + more)
  // for whatever follows, where head and tail are `text` cut at p; 0 when there is none.
  virtual std::size_t safe_cut(std::string_view text) const = 0;
  // Everything that make_tokenizer needs to build this tokenizer again, without the files it came
  // from.
  virtual nlohmann::json to_json() const = 0;

  std::vector<std::int32_t> encode(std::string_view text) const;
  // As encode, but "<|endoftext|>" becomes its token. For prompts that a person wrote, not for
  // data.
  std::vector<std::int32_t> encode_with_special(std::string_view text) const;
  std::string decode(std::span<const std::int32_t> ids) const;
};

// One token a byte, then <|endoftext|>: ids 0-255 and 256.
class ByteTokenizer final : public Tokenizer {
 public:
  std::string_view name() const override { return "byte"; }
  std::int32_t vocab_size() const override { return 257; }
  std::int32_t end_of_text() const override { return 256; }
  std::string_view token_bytes(std::int32_t id) const override;
  void encode_append(std::string_view text, std::vector<std::int32_t>& ids) const override;
  std::size_t safe_cut(std::string_view text) const override { return text.size(); }
  nlohmann::json to_json() const override;
};

// For tokens that came without their tokenizer: how many there are is known, what they stand for is
// not. encode and token_bytes throw Error("tokenizer"); there is no separator (kNoToken).
class UnknownTokenizer final : public Tokenizer {
 public:
  explicit UnknownTokenizer(std::int32_t vocab_size);
  std::string_view name() const override { return "unknown"; }
  std::int32_t vocab_size() const override { return vocab_size_; }
  std::int32_t end_of_text() const override { return kNoToken; }
  std::string_view token_bytes(std::int32_t id) const override;
  void encode_append(std::string_view text, std::vector<std::int32_t>& ids) const override;
  std::size_t safe_cut(std::string_view) const override { return 0; }
  nlohmann::json to_json() const override;

 private:
  std::int32_t vocab_size_;
};

// Inverse of to_json(); throws Error("tokenizer") for anything else.
std::unique_ptr<Tokenizer> make_tokenizer(const nlohmann::json& description);

// A 64-bit fingerprint of to_json(): equal exactly when two tokenizers are the same.
std::uint64_t fingerprint(const Tokenizer& tokenizer);

}  // namespace nibble
