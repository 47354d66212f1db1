// llm.c's token files: a header of 256 int32 (magic, version, token count), then the tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/mapped_file.h"
#include "tensor/atomic_file.h"

namespace nibble {

// uint16 tokens (magic 20240520, version 1), as llm.c writes for GPT-2; uint32 (magic 20240801,
// version 7), as it writes for Llama 3, when the vocabulary has more than 65,536 entries.
enum class TokenWidth : std::uint8_t { U16 = 2, U32 = 4 };
TokenWidth token_width_for(std::int64_t vocab_size);

// Whether the file of these bytes begins as a shard does.
bool is_llmc_shard(std::span<const std::byte> bytes);

// One shard, mapped. Throws Error("data") naming the file and what is wrong: empty, cut off, not a
// token file, another version, a size that contradicts the header.
class Shard {
 public:
  explicit Shard(std::filesystem::path path);

  const std::filesystem::path& path() const { return path_; }
  TokenWidth width() const { return width_; }
  std::int64_t size() const { return size_; }
  // Tokens [begin, begin + out.size()), which must lie inside. 32-bit tokens above 2^31 - 1 come
  // out negative.
  void read(std::int64_t begin, std::span<std::int32_t> out) const;

 private:
  std::filesystem::path path_;
  MappedFile file_;
  TokenWidth width_;
  std::int64_t size_;
};

// Tokens of one split, written as "<split>_000000.bin", "<split>_000001.bin", … in `folder`, each
// of at most `tokens_per_shard` tokens, each put in place when it is complete.
class ShardWriter {
 public:
  ShardWriter(std::filesystem::path folder, std::string split, TokenWidth width,
              std::int64_t tokens_per_shard);
  ~ShardWriter();

  // Ids must be inside the vocabulary that the width was chosen for.
  void write(std::span<const std::int32_t> tokens);
  // Completes the last shard. Without it the last, incomplete shard is dropped.
  void finish();

  std::int64_t tokens() const { return tokens_; }
  // Names of the shards put in place so far.
  const std::vector<std::string>& names() const { return names_; }
  // xxh64 of all tokens as they stand in the shards, whatever their number.
  std::uint64_t content_hash() const;

 private:
  void open_shard();
  void close_shard();

  std::filesystem::path folder_;
  std::string split_;
  TokenWidth width_;
  std::int64_t tokens_per_shard_;
  std::int64_t tokens_ = 0;
  std::int64_t in_shard_ = 0;
  std::vector<std::string> names_;
  std::optional<AtomicFile> file_;
  std::vector<std::byte> bytes_;
  struct Hash;
  std::unique_ptr<Hash> hash_;
};

}  // namespace nibble
