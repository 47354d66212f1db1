#include "data/word_counts.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <limits>

#include "tensor/check.h"

namespace nibble {

void WordCounts::add(std::string_view word, std::uint64_t count) {
  add(word, XXH3_64bits(word.data(), word.size()), count);
}

void WordCounts::add(const WordCounts& other) {
  for (const Entry& entry : other.entries_) add(other.word(entry), entry.hash, entry.count);
}

void WordCounts::add(std::string_view word, std::uint64_t hash, std::uint64_t count) {
  if (2 * entries_.size() >= slots_.size()) grow();
  std::size_t at = hash & (slots_.size() - 1);
  for (; slots_[at] != 0; at = (at + 1) & (slots_.size() - 1)) {
    Entry& entry = entries_[slots_[at] - 1];
    if (entry.hash == hash && this->word(entry) == word) {
      entry.count += count;
      return;
    }
  }
  NIBBLE_CHECK(std::max(word.size(), entries_.size()) < std::numeric_limits<std::uint32_t>::max(),
               "bpe", "got a word of {} bytes, {} words so far; expected less than 2^32",
               word.size(), entries_.size());
  entries_.push_back({hash, count, text_.size(), static_cast<std::uint32_t>(word.size())});
  text_ += word;
  slots_[at] = static_cast<std::uint32_t>(entries_.size());
}

void WordCounts::grow() {
  slots_.assign(std::max<std::size_t>(2 * slots_.size(), 1024), 0);
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    std::size_t at = entries_[i].hash & (slots_.size() - 1);
    while (slots_[at] != 0) at = (at + 1) & (slots_.size() - 1);
    slots_[at] = static_cast<std::uint32_t>(i + 1);
  }
}

void WordCounts::drop_rare(std::uint64_t count) {
  WordCounts kept;
  for (const Entry& entry : entries_) {
    if (entry.count > count) kept.add(word(entry), entry.hash, entry.count);
  }
  *this = std::move(kept);
}

}  // namespace nibble
