// Byte-pair merging of one word.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nibble {

// The learned merges, and their application to one word in O(n log n), so that a word of a megabyte
// is no attack.
class BpeMerges {
 public:
  // Working memory of apply(), one a thread, kept between words.
  struct Scratch {
    std::vector<std::uint32_t> previous, next, rank;
    std::vector<std::uint64_t> heap;
  };

  explicit BpeMerges(std::size_t count);
  // The pair (left, right) becomes `merged`; the lower rank goes first. False when the pair is
  // known.
  bool add(std::int32_t left, std::int32_t right, std::uint32_t rank, std::int32_t merged);
  // Replaces the symbols of one word by its tokens. Among equal ranks the leftmost pair goes first.
  void apply(std::vector<std::int32_t>& symbols, Scratch& scratch) const;

 private:
  struct Entry {
    std::uint64_t pair = kEmpty;
    std::uint32_t rank = kNoRank;
    std::int32_t merged = -1;
  };
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};
  static constexpr std::uint32_t kNoRank = ~std::uint32_t{0};

  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 |
           static_cast<std::uint32_t>(right);
  }
  // The slot of the pair, or the empty slot where it would go.
  std::size_t slot(std::uint64_t pair) const;
  std::uint32_t rank(std::int32_t left, std::int32_t right) const {
    return table_[slot(key(left, right))].rank;
  }

  std::vector<Entry> table_;  // open addressing, at most half full
  unsigned shift_;
};

}  // namespace nibble
