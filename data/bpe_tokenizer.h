// GPT-2's byte-level byte-pair encoding (Radford et al. 2019), from the two files it is published
// as.
#pragma once

#include <filesystem>

#include "data/tokenizer.h"

namespace nibble {

// The names of the two files.
inline constexpr const char* kVocabBpeFile = "vocab.bpe";
inline constexpr const char* kEncoderFile = "encoder.json";

// Text is cut into words by GPT-2's pattern, each word's bytes are merged pair by pair in the order
// that was learned. Bytes that are no valid UTF-8 stand apart: each run of them is a word.
class BpeTokenizer final : public Tokenizer {
 public:
  // Token strings are in GPT-2's spelling, where every byte is one printable character (a space is
  // "Ġ"). `vocab`: by id, all 256 bytes and "<|endoftext|>" among them. `merges`: "left right", in
  // learned order. Throws Error("tokenizer") naming the first entry that does not fit.
  struct Tables {
    std::string name;
    std::vector<std::string> vocab;
    std::vector<std::string> merges;
  };
  explicit BpeTokenizer(Tables tables);
  ~BpeTokenizer() override;
  BpeTokenizer(BpeTokenizer&&) noexcept;

  static BpeTokenizer from_files(const std::filesystem::path& vocab_bpe,
                                 const std::filesystem::path& encoder_json,
                                 std::string name = "gpt2");
  // Writes "vocab.bpe" and "encoder.json" into `folder`, which it makes when it is missing.
  void write_files(const std::filesystem::path& folder) const;
  static BpeTokenizer from_json(const nlohmann::json& description);

  std::string_view name() const override { return tables_.name; }
  std::int32_t vocab_size() const override;
  std::int32_t end_of_text() const override { return end_of_text_; }
  std::string_view token_bytes(std::int32_t id) const override;
  void encode_append(std::string_view text, std::vector<std::int32_t>& ids) const override;
  // Between a printable ASCII character and white space: no word of the pattern spans the two.
  std::size_t safe_cut(std::string_view text) const override;
  nlohmann::json to_json() const override;

 private:
  struct Engine;

  Tables tables_;
  std::vector<std::string> bytes_;  // of each token
  std::int32_t end_of_text_ = -1;
  std::unique_ptr<Engine> engine_;
};

}  // namespace nibble
