#include "data/import_shards.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "data/output_folder.h"
#include "data/shard.h"
#include "tensor/check.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
constexpr const char* kOp = "data";
constexpr std::int64_t kBlock = std::int64_t{1} << 20;  // tokens

// A file of uint16 and nothing else.
class BareTokens {
 public:
  explicit BareTokens(const fs::path& path) : file_(path) {
    const std::span<const std::byte> bytes = file_.bytes();
    NIBBLE_CHECK(!bytes.empty(), kOp, "{} is empty", path.string());
    NIBBLE_CHECK(
        !is_llmc_shard(bytes), kOp,
        "{} is a token file of llm.c: expected bare uint16 tokens; hint: import it as llm.c",
        path.string());
    NIBBLE_CHECK(bytes.size() % sizeof(std::uint16_t) == 0, kOp,
                 "{} is cut off, or holds no uint16 tokens: got {} bytes expected an even number",
                 path.string(), bytes.size());
  }

  std::int64_t size() const {
    return static_cast<std::int64_t>(file_.bytes().size() / sizeof(std::uint16_t));
  }
  void read(std::int64_t begin, std::span<std::int32_t> out) const {
    const std::byte* from = file_.bytes().data() + begin * std::int64_t{sizeof(std::uint16_t)};
    for (std::int32_t& token : out) {
      std::uint16_t narrow;
      std::memcpy(&narrow, from, sizeof(narrow));
      token = narrow;
      from += sizeof(narrow);
    }
  }

 private:
  MappedFile file_;
};

class Importer {
 public:
  Importer(const Tokenizer& tokenizer, ShardForm form, const TokenizeOptions& options)
      : tokenizer_(tokenizer), form_(form), options_(options) {}

  Split import_split(const std::string& name, const std::vector<fs::path>& paths) {
    ShardWriter writer(options_.output, name, token_width_for(tokenizer_.vocab_size()),
                       options_.tokens_per_shard);
    split_ = Split();
    after_separator_ = true;
    for (const fs::path& path : paths) {
      if (form_ == ShardForm::LlmC) {
        copy(path, Shard(path), writer);
      } else {
        copy(path, BareTokens(path), writer);
      }
    }
    writer.finish();
    split_.shards = writer.names();
    split_.tokens = writer.tokens();
    split_.content_hash = writer.content_hash();
    return std::move(split_);
  }

 private:
  template <class File>
  void copy(const fs::path& path, const File& file, ShardWriter& writer) {
    std::vector<std::int32_t> tokens;
    for (std::int64_t at = 0; at < file.size(); at += kBlock) {
      tokens.resize(static_cast<std::size_t>(std::min(kBlock, file.size() - at)));
      file.read(at, tokens);
      count(path, at, tokens, writer.tokens() == 0);
      writer.write(tokens);
      total_.tokens += static_cast<std::int64_t>(tokens.size());
      if (options_.progress) options_.progress(total_);
    }
  }

  void count(const fs::path& path, std::int64_t begin, std::span<const std::int32_t> tokens,
             bool at_start) {
    const bool text_known = tokenizer_.end_of_text() != kNoToken;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const std::int32_t token = tokens[i];
      NIBBLE_CHECK(token >= 0 && token < tokenizer_.vocab_size(), kOp,
                   "{}: got token {} at offset {} expected less than the vocabulary's {}; hint: "
                   "another tokenizer, or another form of file?",
                   path.string(), static_cast<std::uint32_t>(token),
                   begin + static_cast<std::int64_t>(i), tokenizer_.vocab_size());
      const bool separator = token == tokenizer_.end_of_text();
      split_.documents += after_separator_ && !separator;
      after_separator_ = separator;
      if (text_known && !separator && !(at_start && i == 0)) {
        split_.text_bytes += static_cast<std::int64_t>(tokenizer_.token_bytes(token).size());
      }
    }
  }

  const Tokenizer& tokenizer_;
  ShardForm form_;
  const TokenizeOptions& options_;
  Split split_;
  bool after_separator_ = true;
  TokenizeProgress total_;
};

}  // namespace

Dataset import_shards(const Tokenizer& tokenizer, ShardForm form, const TokenizeOptions& options) {
  NIBBLE_CHECK(!options.inputs.empty(), kOp, "got no token file");
  OutputFolder folder(options.output);
  Importer importer(tokenizer, form, options);
  Dataset dataset{std::string(tokenizer.name()), tokenizer.vocab_size(), fingerprint(tokenizer),
                  importer.import_split("train", options.inputs),
                  importer.import_split("val", options.val_inputs)};
  write_dataset(options.output, dataset, tokenizer);
  folder.keep();
  return dataset;
}

}  // namespace nibble
