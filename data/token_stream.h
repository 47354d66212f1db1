// The shards of one split as one sequence of tokens.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "data/shard.h"

namespace nibble {

class TokenStream {
 public:
  // `vocab_size`: of the model that reads the tokens. Throws Error("data") as Shard does.
  TokenStream(const std::vector<std::filesystem::path>& shards, std::int64_t vocab_size);

  std::int64_t size() const { return begins_.back(); }
  // Tokens [begin, begin + out.size()), across shards. A token outside the vocabulary throws
  // Error("data") naming its file, its offset there and its id.
  void read(std::int64_t begin, std::span<std::int32_t> out) const;

 private:
  void check_vocabulary(const Shard& shard, std::int64_t begin,
                        std::span<const std::int32_t> tokens) const;

  std::vector<Shard> shards_;
  std::vector<std::int64_t> begins_{0};  // of each shard, then the total
  std::int64_t vocab_size_;
};

}  // namespace nibble
