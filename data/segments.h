// The text files of a dataset, as pieces that can be encoded each by itself.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/text_reader.h"
#include "data/tokenize.h"

namespace nibble {

enum class Part : std::uint8_t { Train, Val };

struct Segment {
  std::string text;
  std::string source;
  bool begins_document = false;
  Part part = Part::Train;
};

// Reads the inputs of TokenizeOptions, tells which part is for validation, and cuts documents where
// `safe_cut` (Tokenizer::safe_cut) allows it. Batches of about 1 MiB go to `sink` in the input's
// order; they are a function of the input alone.
class SegmentReader {
 public:
  using SafeCut = std::function<std::size_t(std::string_view)>;
  using Sink = std::function<void(std::vector<Segment>)>;
  // Reads the inputs once already when a fraction of them is for validation.
  SegmentReader(const TokenizeOptions& options, SafeCut safe_cut, Sink sink);

  // With Part::Train stops where the validation part begins.
  void read(Part last = Part::Val);

  // Of the text, and of its part before the border; not known without a validation fraction.
  std::int64_t total_bytes() const { return total_bytes_; }
  std::optional<std::int64_t> border() const { return border_; }

 private:
  void read_file(const std::filesystem::path& path, Part last);
  void split_at_border(TextPiece& piece);
  void add(const TextPiece& piece);
  void end_document();
  void push(Segment segment);
  void submit();

  const TokenizeOptions& options_;
  SafeCut safe_cut_;
  Sink sink_;
  std::int64_t total_bytes_ = 0;
  std::optional<std::int64_t> border_;  // where validation begins, in bytes of text
  std::int64_t bytes_read_ = 0;
  char last_byte_ = '\0';
  Part part_ = Part::Train;
  std::optional<Segment> open_;  // what the current document has not yet pushed
  std::vector<Segment> batch_;
  std::size_t batch_bytes_ = 0;
};

// Throws Error("tokenize") for options that do not fit together and for files that cannot be
// opened: before hours of work, not after.
void check_text_options(const TokenizeOptions& options);

}  // namespace nibble
