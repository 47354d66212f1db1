#include "data/bpe_trainer.h"

#include <algorithm>
#include <array>
#include <limits>
#include <queue>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "data/byte_spelling.h"
#include "data/ordered_tasks.h"
#include "data/segments.h"
#include "data/word_cutter.h"
#include "tensor/check.h"

namespace nibble {
namespace {

constexpr const char* kOp = "bpe";

// The words side by side, one cell a byte and an edge on both sides of each. A token lies in its
// first and its last cell; cells between those are kInside. So neighbours are found without links.
class Learner {
 public:
  explicit Learner(const WordCounts& words) {
    const std::array<unsigned char, 256> order = gpt2_byte_order();
    std::array<std::int32_t, 256> id_of;
    for (std::int32_t id = 0; id < 256; ++id) {
      id_of[order[static_cast<std::size_t>(id)]] = id;
      tokens_.emplace_back(1, static_cast<char>(order[static_cast<std::size_t>(id)]));
    }
    const std::size_t cells = words.text_bytes() + words.size() + 1;
    NIBBLE_CHECK(cells < std::numeric_limits<std::uint32_t>::max(), kOp,
                 "got {} bytes of distinct words expected less than 4 GiB", words.text_bytes());
    cells_.reserve(cells);
    cells_.push_back(kEdge);
    words.for_each([&](std::string_view word, std::uint64_t count) {
      if (word.size() < 2) return;  // nothing to merge
      begins_.push_back(static_cast<std::uint32_t>(cells_.size()));
      counts_.push_back(static_cast<std::int64_t>(count));
      for (const char c : word) cells_.push_back(id_of[static_cast<unsigned char>(c)]);
      cells_.push_back(kEdge);
    });
    find_pairs();
  }

  void learn(std::size_t vocab_size) {
    while (tokens_.size() < vocab_size && !queue_.empty()) {
      const Candidate top = queue_.top();
      queue_.pop();
      const auto found = pairs_.find(top.pair);
      if (found == pairs_.end()) continue;
      const std::int64_t count = found->second.count;
      if (count == top.count) {
        merge(top.pair, std::move(found->second.places));
        pairs_.erase(top.pair);
      } else if (count >= kLeast) {
        queue_.push({count, top.pair});  // it lost places to other merges since it was queued
      }
    }
  }

  BpeTokenizer::Tables tables() const {
    BpeTokenizer::Tables tables{"bpe", {}, {}};
    for (const std::string& token : tokens_) {
      tables.vocab.push_back(byte_spelling().spell(token));
    }
    for (const std::uint64_t pair : merges_) {
      tables.merges.push_back(tables.vocab[left_of(pair)] + " " + tables.vocab[right_of(pair)]);
    }
    tables.vocab.emplace_back(kEndOfText);
    return tables;
  }

 private:
  struct Pair {
    std::int64_t count = 0;             // exact; at 0 the pair goes
    std::vector<std::uint32_t> places;  // ascending: where it is, and where it is no more
  };
  struct Candidate {
    std::int64_t count;
    std::uint64_t pair;
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };
  static constexpr std::int32_t kEdge = -1, kInside = -2;
  static constexpr std::int64_t kLeast = 2;  // a pair that comes once is worth no token

  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 |
           static_cast<std::uint32_t>(right);
  }
  static std::size_t left_of(std::uint64_t pair) { return pair >> 32; }
  static std::size_t right_of(std::uint64_t pair) { return pair & 0xFFFF'FFFF; }
  std::uint32_t length(std::size_t token) const {
    return static_cast<std::uint32_t>(tokens_[token].size());
  }

  void find_pairs() {
    for (std::size_t word = 0; word < begins_.size(); ++word) {
      for (std::uint32_t at = begins_[word]; cells_[at + 1] != kEdge; ++at) {
        Pair& pair = pairs_[key(cells_[at], cells_[at + 1])];
        pair.count += counts_[word];
        pair.places.push_back(at);
      }
    }
    for (const auto& [key, pair] : pairs_) {
      if (pair.count >= kLeast) queue_.push({pair.count, key});
    }
  }

  void merge(std::uint64_t pair, std::vector<std::uint32_t> places) {
    const auto left = static_cast<std::int32_t>(left_of(pair));
    const auto right = static_cast<std::int32_t>(right_of(pair));
    // Never the bytes of an older token: between two borders that no merge has crossed, text is
    // merged as if it stood alone, so the same bytes were merged the same way.
    const auto merged = static_cast<std::int32_t>(tokens_.size());
    tokens_.push_back(tokens_[left_of(pair)] + tokens_[right_of(pair)]);
    merges_.push_back(pair);
    auto word = begins_.begin();
    for (const std::uint32_t at : places) {
      const std::uint32_t middle = at + length(left_of(pair));
      if (cells_[at] != left || cells_[middle] != right) continue;
      word = std::upper_bound(word, begins_.end(), at) - 1;
      const std::int64_t count = counts_[static_cast<std::size_t>(word - begins_.begin())];
      const std::uint32_t last = middle + length(right_of(pair)) - 1;
      if (const std::int32_t previous = cells_[at - 1]; previous != kEdge) {
        shrink(key(previous, left), count);
        grow(key(previous, merged), count, at - length(static_cast<std::size_t>(previous)));
      }
      if (const std::int32_t next = cells_[last + 1]; next != kEdge) {
        shrink(key(right, next), count);
        grow(key(merged, next), count, at);
      }
      cells_[middle - 1] = cells_[middle] = kInside;
      cells_[at] = cells_[last] = merged;
    }
    for (const std::uint64_t pair_of_merged : fresh_) {
      const auto found = pairs_.find(pair_of_merged);
      if (found != pairs_.end() && found->second.count >= kLeast) {
        queue_.push({found->second.count, pair_of_merged});
      }
    }
    fresh_.clear();
  }

  void shrink(std::uint64_t pair, std::int64_t count) {
    const auto entry = pairs_.find(pair);
    entry->second.count -= count;
    if (entry->second.count == 0) pairs_.erase(entry);
  }
  void grow(std::uint64_t pair, std::int64_t count, std::uint32_t at) {
    Pair& entry = pairs_[pair];
    if (entry.places.empty()) fresh_.push_back(pair);
    entry.count += count;
    entry.places.push_back(at);
  }

  std::vector<std::int32_t> cells_;
  std::vector<std::uint32_t> begins_;  // of each word's first cell
  std::vector<std::int64_t> counts_;   // of each word
  std::vector<std::string> tokens_;    // bytes, by id
  std::vector<std::uint64_t> merges_;
  std::unordered_map<std::uint64_t, Pair> pairs_;
  std::priority_queue<Candidate> queue_;  // of each pair at least its present count
  std::vector<std::uint64_t> fresh_;      // pairs that the merge under way made
};

WordCounts count_words(const std::vector<Segment>& segments) {
  WordCounts counts;
  WordCutter cutter;
  for (const Segment& segment : segments) {
    cutter.cut(segment.text, [&](std::string_view word) { counts.add(word); });
  }
  return counts;
}

std::size_t memory_of(const WordCounts& counts) {
  return 48 * counts.size() + 24 * counts.text_bytes();
}

// Until the memory is at most this. Returns how often the most frequent word it drops may have
// come.
std::int64_t drop_rarest(WordCounts& counts, std::size_t memory) {
  std::int64_t dropped = 0;
  for (std::int64_t rare = 1; memory_of(counts) > memory; rare *= 2) {
    counts.drop_rare(static_cast<std::uint64_t>(rare));
    dropped = rare;
  }
  return dropped;
}

void check_size(std::int32_t vocab_size) {
  NIBBLE_CHECK(vocab_size >= kMinBpeVocab && vocab_size <= kMaxBpeVocab, kOp,
               "got a vocabulary of {} tokens expected {} (all bytes and {}) to {}", vocab_size,
               kMinBpeVocab, kEndOfText, kMaxBpeVocab);
}

}  // namespace

BpeTokenizer::Tables learn_bpe(const WordCounts& words, std::int32_t vocab_size) {
  check_size(vocab_size);
  Learner learner(words);
  learner.learn(static_cast<std::size_t>(vocab_size) - 1);
  return learner.tables();
}

BpeTraining train_bpe(std::int32_t vocab_size, const TokenizeOptions& text,
                      std::size_t max_memory) {
  check_size(vocab_size);
  check_text_options(text);
  BpeTraining training;
  WordCounts counts;
  std::int64_t documents = 0;

  struct Counted {
    WordCounts counts;
    std::int64_t bytes = 0, documents = 0;
  };
  // Dropping follows the input's order, batch by batch, so that threads change nothing.
  OrderedTasks<Counted> tasks(text.threads, [&](const Counted& batch) {
    counts.add(batch.counts);
    if (memory_of(counts) > max_memory)
      training.dropped_below += drop_rarest(counts, max_memory / 2);
    training.text_bytes += batch.bytes;
    documents += batch.documents;
    if (text.progress) text.progress({training.text_bytes, 0, 0, documents});
  });
  const auto submit = [&](std::vector<Segment> segments) {
    tasks.submit([segments = std::move(segments)] {
      Counted batch{count_words(segments)};
      for (const Segment& segment : segments) {
        batch.bytes += static_cast<std::int64_t>(segment.text.size());
        batch.documents += segment.begins_document;
      }
      return batch;
    });
  };
  SegmentReader(text, last_word_border, submit).read(Part::Train);
  tasks.finish();

  NIBBLE_CHECK(training.text_bytes > 0, kOp, "the training text is empty: nothing to learn from");
  training.words = static_cast<std::int64_t>(counts.size());
  training.tables = learn_bpe(counts, vocab_size);
  return training;
}

}  // namespace nibble
