// A tokenized dataset: a folder of shards, tokenizer.json, and dataset.json, which describes them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace nibble {

// Where a stratum (a document's "source") lies in a split.
struct Stratum {
  struct Range {
    std::int64_t begin;  // tokens, the document's <|endoftext|> included
    std::int64_t end;
  };
  std::string source;
  std::int64_t documents = 0;
  std::int64_t text_bytes = 0;
  std::vector<Range> ranges;  // ascending, disjoint, never adjacent
};

struct Split {
  std::vector<std::string> shards;  // file names in the dataset's folder, in order
  std::int64_t tokens = 0;          // <|endoftext|> included
  std::int64_t documents = 0;       // pieces of a document shared by both splits count in both
  std::int64_t text_bytes = 0;      // of the text, for losses in bits a byte
  std::uint64_t content_hash = 0;   // xxh64 of the tokens as stored
  std::vector<Stratum> strata;      // validation only, when documents name a source; by name
};

struct Dataset {
  std::string tokenizer_name;
  std::int64_t vocab_size = 0;
  std::uint64_t tokenizer_fingerprint = 0;
  Split train;
  Split val;  // no tokens: the dataset has no validation split
};

// The file names inside a dataset's folder.
inline constexpr const char* kDatasetFile = "dataset.json";
inline constexpr const char* kTokenizerFile = "tokenizer.json";

// Throws Error("data") when the folder holds no dataset or a damaged one. Shards are looked at when
// they are opened.
Dataset read_dataset(const std::filesystem::path& folder);
// The tokenizer that made it; checked against the fingerprint in dataset.json.
std::unique_ptr<Tokenizer> read_dataset_tokenizer(const std::filesystem::path& folder);
// tokenizer.json, then dataset.json: the second one's presence marks a complete dataset.
void write_dataset(const std::filesystem::path& folder, const Dataset& dataset,
                   const Tokenizer& tokenizer);

// "train" or "val".
const Split& split_named(const Dataset& dataset, std::string_view name);
std::vector<std::filesystem::path> shard_paths(const std::filesystem::path& folder,
                                               const Split& split);
// One number for all that training reads: tokenizer and both splits.
std::uint64_t content_hash(const Dataset& dataset);

}  // namespace nibble
