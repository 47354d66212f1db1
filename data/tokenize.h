// From text files to a tokenized dataset.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "data/dataset.h"
#include "data/tokenizer.h"

namespace nibble {

struct TokenizeProgress {
  std::int64_t text_bytes = 0;   // encoded and written so far
  std::int64_t total_bytes = 0;  // 0: not known
  std::int64_t tokens = 0;
  std::int64_t documents = 0;
};

struct TokenizeOptions {
  std::vector<std::filesystem::path> inputs;      // as open_text takes them, kinds may be mixed
  std::vector<std::filesystem::path> val_inputs;  // a validation split of its own, or
  double val_fraction = 0.0;                      // the tail of the text as validation split
  std::filesystem::path output;                   // a new or empty folder
  std::int64_t tokens_per_shard = 100'000'000;
  int threads = 1;
  // Called on the calling thread, after about every MiB of text.
  std::function<void(const TokenizeProgress&)> progress;
};

// Writes the dataset and returns its description. `<|endoftext|>` stands before every document, as
// in llm.c's datasets, and so at the start of each split: every byte of the text is predicted.
//
// With val_fraction f the first (1 - f) of the text's bytes are for training; the border moves on
// to the next document or, inside a .txt, to the next line. This reads the input twice.
//
// Memory is bounded (some MiB a thread, plus the longest JSON line). For that, a stretch of 4 MiB
// in which nothing but the encoder could tell where a word ends (no white space after a printable
// ASCII character) is cut. The result does not depend on `threads`.
//
// Throws Error naming what is wrong; the output folder is then as it was before.
Dataset tokenize_files(const Tokenizer& tokenizer, const TokenizeOptions& options);

}  // namespace nibble
