#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/byte_spelling.h"
#include "data/hf_tokenizer.h"
#include "tensor/atomic_file.h"
#include "tensor/check.h"

namespace nibble {
namespace {

using nlohmann::ordered_json;
constexpr const char* kOp = "tokenizer";

struct Tables {
  std::vector<std::string> vocab, merges;
};

Tables tables_of(const Tokenizer& tokenizer) {
  const nlohmann::json json = tokenizer.to_json();
  if (json["type"] == "bpe")
    return {json["vocab"].get<std::vector<std::string>>(),
            json["merges"].get<std::vector<std::string>>()};
  NIBBLE_CHECK(json["type"] == "byte", kOp, "\"{}\" has no form as tokenizer.json",
               tokenizer.name());
  Tables tables;
  for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string_view bytes = tokenizer.token_bytes(id);
    tables.vocab.push_back(id == tokenizer.end_of_text() ? std::string(bytes)
                                                         : byte_spelling().spell(bytes));
  }
  return tables;
}

ordered_json byte_level() {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", false},
          {"use_regex", true}};
}

ordered_json tokenizer_json(const Tokenizer& tokenizer) {
  Tables tables = tables_of(tokenizer);
  // By id. emplace_back, because emplace looks for each new key among all before it.
  ordered_json::object_t vocab;
  for (std::string& token : tables.vocab) {
    const auto id = static_cast<std::int64_t>(vocab.size());
    vocab.emplace_back(std::move(token), id);
  }
  const ordered_json end = {{"id", tokenizer.end_of_text()},
                            {"content", kEndOfText},
                            {"single_word", false},
                            {"lstrip", false},
                            {"rstrip", false},
                            {"normalized", false},
                            {"special", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", ordered_json::array({end})},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level()},
          {"post_processor", byte_level()},
          {"decoder", byte_level()},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", std::move(vocab)},
            {"merges", std::move(tables.merges)}}}};
}

}  // namespace

void write_hf_tokenizer(const std::filesystem::path& folder, const Tokenizer& tokenizer) {
  const ordered_json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                               {"bos_token", kEndOfText},
                               {"eos_token", kEndOfText},
                               {"unk_token", kEndOfText},
                               {"clean_up_tokenization_spaces", false}};
  write_file_atomically(folder / "tokenizer.json", tokenizer_json(tokenizer).dump() + "\n", kOp);
  write_file_atomically(folder / "tokenizer_config.json", config.dump(2) + "\n", kOp);
}

}  // namespace nibble
