#include "data/bpe_merges.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

#include "tensor/check.h"

namespace nibble {
namespace {
constexpr std::uint32_t kEnd = std::numeric_limits<std::uint32_t>::max();
}

BpeMerges::BpeMerges(std::size_t count)
    : table_(std::bit_ceil(std::max<std::size_t>(2 * count, 16))),
      shift_(64 - static_cast<unsigned>(std::countr_zero(table_.size()))) {}

std::size_t BpeMerges::slot(std::uint64_t pair) const {
  std::size_t at = (pair * 0x9E3779B97F4A7C15ull) >> shift_;
  while (table_[at].pair != pair && table_[at].pair != kEmpty) at = (at + 1) & (table_.size() - 1);
  return at;
}

bool BpeMerges::add(std::int32_t left, std::int32_t right, std::uint32_t rank,
                    std::int32_t merged) {
  Entry& entry = table_[slot(key(left, right))];
  if (entry.pair != kEmpty) return false;
  entry = {key(left, right), rank, merged};
  return true;
}

void BpeMerges::apply(std::vector<std::int32_t>& symbols, Scratch& scratch) const {
  const std::size_t count = symbols.size();
  if (count < 2) return;
  NIBBLE_CHECK(count < kEnd, "tokenizer", "got a word of {} bytes expected less than 4 GiB", count);
  auto &previous = scratch.previous, &next = scratch.next;
  auto& ranks = scratch.rank;
  auto& heap = scratch.heap;
  previous.resize(count);
  next.resize(count);
  ranks.resize(count);  // of the pair that starts at the position
  heap.clear();

  // A heap entry is rank, then position: the smallest is the next merge. It is stale when the pair
  // at that position has another rank by now.
  const auto push = [&](std::uint32_t at) {
    if (ranks[at] != kNoRank) {
      heap.push_back(std::uint64_t{ranks[at]} << 32 | at);
      std::push_heap(heap.begin(), heap.end(), std::greater<>{});
    }
  };
  const auto update = [&](std::uint32_t at) {
    ranks[at] = next[at] == kEnd ? kNoRank : rank(symbols[at], symbols[next[at]]);
    push(at);
  };
  for (std::uint32_t at = 0; at < count; ++at) {
    previous[at] = at == 0 ? kEnd : at - 1;
    next[at] = at + 1 == count ? kEnd : at + 1;
    update(at);
  }
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>{});
    const auto at = static_cast<std::uint32_t>(heap.back());
    const auto entry_rank = static_cast<std::uint32_t>(heap.back() >> 32);
    heap.pop_back();
    if (ranks[at] != entry_rank) continue;
    const std::uint32_t right = next[at];
    symbols[at] = table_[slot(key(symbols[at], symbols[right]))].merged;
    ranks[right] = kNoRank;
    next[at] = next[right];
    if (next[at] != kEnd) previous[next[at]] = at;
    update(at);
    if (previous[at] != kEnd) update(previous[at]);
  }
  std::size_t kept = 0;
  for (std::uint32_t at = 0; at != kEnd; at = next[at]) symbols[kept++] = symbols[at];
  symbols.resize(kept);
}

}  // namespace nibble
