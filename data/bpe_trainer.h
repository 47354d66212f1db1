// Learning a byte-level BPE vocabulary from text (Sennrich et al. 2016, on bytes as in GPT-2).
#pragma once

#include <cstddef>
#include <cstdint>

#include "data/bpe_tokenizer.h"
#include "data/tokenize.h"
#include "data/word_counts.h"

namespace nibble {

// Ids: the 256 bytes in GPT-2's order, the merges in learned order, "<|endoftext|>" last.
inline constexpr std::int32_t kMinBpeVocab = 257;
inline constexpr std::int32_t kMaxBpeVocab = 1 << 20;

// Merges the most frequent pair of neighbours inside words, again and again, until the vocabulary
// has `vocab_size` tokens or no pair occurs twice (then it is smaller). Among pairs of the same
// frequency the one with the smaller left id goes first, then the one with the smaller right id; a
// pair occurs wherever it stands, so "aaa" holds (a, a) twice. Near-linear in the words' bytes.
// Throws Error("bpe") for a size outside kMinBpeVocab … kMaxBpeVocab.
BpeTokenizer::Tables learn_bpe(const WordCounts& words, std::int32_t vocab_size);

struct BpeTraining {
  BpeTokenizer::Tables tables;  // named "bpe"
  std::int64_t text_bytes = 0;
  std::int64_t words = 0;  // distinct ones that were learned from
  // 0, or: so often or less a word may have come without being counted, for want of memory.
  std::int64_t dropped_below = 0;
};

// From the training part of `text` (inputs, validation fraction, threads and progress count), cut
// into words as BpeTokenizer does. The result does not depend on the number of threads.
//
// Memory is bounded by `max_memory` bytes, reckoned at 48 a distinct word and 24 a byte of it: when
// the table of words reaches it, its rarest words are dropped until half is free.
//
// Throws Error("bpe") when the training part has no text, and as tokenize_files does.
BpeTraining train_bpe(std::int32_t vocab_size, const TokenizeOptions& text,
                      std::size_t max_memory = std::size_t{2} << 30);

}  // namespace nibble
