// tokenizer.json of Hugging Face's `tokenizers`, of the byte-level BPE kind: read and written.
#pragma once

#include <filesystem>
#include <memory>

#include "data/bpe_tokenizer.h"

namespace nibble {

// Reads GPT-2's kind: a BPE model over the ByteLevel pre-tokenizer with its own pattern, no
// normalizer, no prefix space, no dropout. Merges are strings or pairs; ids may stand in any order
// but must be 0 … n-1. Tokens are those that `tokenizers` gives without special tokens: what the
// file's post-processor, truncation or padding would add or cut is not, and special tokens in a
// text are the text they are. "<|endoftext|>" must be there.
//
// Throws Error("tokenizer") naming the file, what was found in it and what is supported.
BpeTokenizer read_hf_tokenizer(const std::filesystem::path& file);

// Hugging Face's tokenizer.json, or that of one of Nibble's own datasets.
std::unique_ptr<Tokenizer> read_tokenizer_file(const std::filesystem::path& file);

// Writes tokenizer.json and tokenizer_config.json into `folder`: those that transformers'
// AutoTokenizer reads, with the same tokens. Bytes become a BPE without merges. Throws
// Error("tokenizer") for one that has no tables.
void write_hf_tokenizer(const std::filesystem::path& folder, const Tokenizer& tokenizer);

}  // namespace nibble
