// Token files that other programs made, as a dataset.
#pragma once

#include <cstdint>

#include "data/dataset.h"
#include "data/tokenize.h"

namespace nibble {

enum class ShardForm : std::uint8_t {
  LlmC,     // a header, then uint16 or uint32 tokens (data/shard.h)
  NanoGpt,  // uint16 tokens and nothing else: what numpy's tofile leaves, and llama2.c's files
};

// Copies the tokens of options.inputs, and of options.val_inputs, in order and as they are, into a
// dataset of `tokenizer`, with which they must have been made. Of the options, those about text
// (val_fraction, threads) do not count.
//
// A split's text_bytes, for losses in bits a byte, are those of all its tokens that are predicted:
// the first one of a split is not. They are 0 when the tokenizer is an UnknownTokenizer. Documents
// are counted as the stretches between separators.
//
// Throws Error("data") naming the file: empty, of another form, cut off (a nanoGPT file only shows
// that by an odd size), a token outside the vocabulary; the output folder is then as it was before.
Dataset import_shards(const Tokenizer& tokenizer, ShardForm form, const TokenizeOptions& options);

}  // namespace nibble
