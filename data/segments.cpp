#include "data/segments.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "tensor/check.h"

namespace nibble {
namespace {

constexpr const char* kOp = "tokenize";
constexpr std::size_t kBatchBytes = std::size_t{1} << 20;
constexpr std::size_t kMaxUncut = std::size_t{4} << 20;

std::int64_t count_bytes(const std::vector<std::filesystem::path>& paths) {
  std::int64_t bytes = 0;
  TextPiece piece;
  for (const std::filesystem::path& path : paths) {
    const std::unique_ptr<TextReader> reader = open_text(path);
    while (reader->next(piece)) bytes += static_cast<std::int64_t>(piece.text.size());
  }
  return bytes;
}

}  // namespace

SegmentReader::SegmentReader(const TokenizeOptions& options, SafeCut safe_cut, Sink sink)
    : options_(options), safe_cut_(std::move(safe_cut)), sink_(std::move(sink)) {
  if (options_.val_fraction > 0) {
    total_bytes_ = count_bytes(options_.inputs);
    border_ = total_bytes_ - static_cast<std::int64_t>(std::llround(
                                 static_cast<double>(total_bytes_) * options_.val_fraction));
  }
}

void SegmentReader::read(Part last) {
  for (const std::filesystem::path& path : options_.inputs) read_file(path, last);
  part_ = Part::Val;
  if (last == Part::Val) {
    for (const std::filesystem::path& path : options_.val_inputs) read_file(path, last);
  }
  end_document();
  submit();
}

void SegmentReader::read_file(const std::filesystem::path& path, Part last) {
  if (part_ > last) return;
  const std::unique_ptr<TextReader> reader = open_text(path);
  TextPiece piece;
  while (reader->next(piece)) {
    if (border_ && part_ == Part::Train) split_at_border(piece);
    if (part_ > last) return;
    add(piece);
  }
}

// Turns to the validation split where this piece reaches it; what lies before it is added here.
void SegmentReader::split_at_border(TextPiece& piece) {
  const bool may_cut = piece.begins_document || (piece.divisible && last_byte_ == '\n');
  if (bytes_read_ >= *border_ && may_cut) {
    part_ = Part::Val;
    piece.begins_document = true;
    return;
  }
  const auto size = static_cast<std::int64_t>(piece.text.size());
  if (piece.divisible && bytes_read_ + size > *border_) {
    // A line that ends right at the border counts.
    const std::int64_t from = std::max<std::int64_t>(*border_ - bytes_read_ - 1, 0);
    const std::size_t line_end = piece.text.find('\n', static_cast<std::size_t>(from));
    if (line_end != std::string::npos && line_end + 1 < piece.text.size()) {
      TextPiece head = piece;
      head.text.resize(line_end + 1);
      add(head);
      piece.text.erase(0, line_end + 1);
      piece.begins_document = true;
      part_ = Part::Val;
    }
  }
}

void SegmentReader::add(const TextPiece& piece) {
  bytes_read_ += static_cast<std::int64_t>(piece.text.size());
  if (!piece.text.empty()) last_byte_ = piece.text.back();
  if (piece.begins_document) {
    end_document();
    open_ = Segment{"", piece.source, true, part_};
  }
  std::string& text = open_->text;
  text += piece.text;
  std::size_t cut = safe_cut_(text);
  if (cut == 0 && text.size() >= kMaxUncut) {
    cut = text.size();
    // Not inside a character.
    while (cut + 4 > text.size() && (static_cast<unsigned char>(text[cut - 1]) & 0xC0) == 0x80)
      --cut;
    if (static_cast<unsigned char>(text[cut - 1]) >= 0xC0) --cut;
  }
  if (cut == 0) return;
  Segment rest{text.substr(cut), open_->source, false, open_->part};
  text.resize(cut);
  push(std::move(*open_));
  open_ = std::move(rest);
}

void SegmentReader::end_document() {
  if (open_ && (open_->begins_document || !open_->text.empty())) push(std::move(*open_));
  open_.reset();
}

void SegmentReader::push(Segment segment) {
  batch_bytes_ += segment.text.size();
  batch_.push_back(std::move(segment));
  if (batch_bytes_ >= kBatchBytes) submit();
}

void SegmentReader::submit() {
  if (!batch_.empty()) sink_(std::exchange(batch_, {}));
  batch_bytes_ = 0;
}

void check_text_options(const TokenizeOptions& options) {
  NIBBLE_CHECK(!options.inputs.empty(), kOp, "got no input file");
  NIBBLE_CHECK(options.threads >= 1, kOp, "got {} threads expected at least 1", options.threads);
  NIBBLE_CHECK(options.val_fraction >= 0 && options.val_fraction < 1, kOp,
               "got a validation fraction of {} expected at least 0 and below 1",
               options.val_fraction);
  NIBBLE_CHECK(options.val_fraction == 0 || options.val_inputs.empty(), kOp,
               "got validation files and a validation fraction expected one of them");
  for (const auto* paths : {&options.inputs, &options.val_inputs}) {
    for (const std::filesystem::path& path : *paths) open_text(path);
  }
}

}  // namespace nibble
