#include "data/token_stream.h"

#include <algorithm>

#include "tensor/check.h"

namespace nibble {

TokenStream::TokenStream(const std::vector<std::filesystem::path>& shards, std::int64_t vocab_size)
    : vocab_size_(vocab_size) {
  NIBBLE_CHECK(!shards.empty(), "data", "got no token file: the split is empty");
  NIBBLE_CHECK(vocab_size > 0, "data", "got a vocabulary of {} expected at least 1", vocab_size);
  for (const std::filesystem::path& path : shards) {
    shards_.emplace_back(path);
    begins_.push_back(begins_.back() + shards_.back().size());
  }
}

void TokenStream::read(std::int64_t begin, std::span<std::int32_t> out) const {
  const auto count = static_cast<std::int64_t>(out.size());
  NIBBLE_CHECK(begin >= 0 && begin <= size() && count <= size() - begin, "data",
               "got tokens {} to {} expected them within {}", begin, begin + count, size());
  const auto after = std::upper_bound(begins_.begin(), begins_.end(), begin);
  auto index = static_cast<std::size_t>(after - begins_.begin()) - 1;
  while (!out.empty()) {
    const Shard& shard = shards_[index];
    const std::int64_t local = begin - begins_[index];
    const auto take = static_cast<std::size_t>(
        std::min<std::int64_t>(static_cast<std::int64_t>(out.size()), shard.size() - local));
    shard.read(local, out.first(take));
    check_vocabulary(shard, local, out.first(take));
    out = out.subspan(take);
    begin += static_cast<std::int64_t>(take);
    ++index;
  }
}

void TokenStream::check_vocabulary(const Shard& shard, std::int64_t begin,
                                   std::span<const std::int32_t> tokens) const {
  const auto outside = [this](std::int32_t token) { return token < 0 || token >= vocab_size_; };
  const auto bad = std::find_if(tokens.begin(), tokens.end(), outside);
  if (bad == tokens.end()) [[likely]]
    return;
  fail("data", "{}: got token {} at offset {} expected less than the vocabulary's {}",
       shard.path().string(), static_cast<std::uint32_t>(*bad), begin + (bad - tokens.begin()),
       vocab_size_);
}

}  // namespace nibble
