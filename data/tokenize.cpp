#include "data/tokenize.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <future>
#include <map>
#include <optional>
#include <system_error>

#include "data/shard.h"
#include "data/text_reader.h"
#include "tensor/check.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
constexpr const char* kOp = "tokenize";
constexpr std::size_t kBatchBytes = std::size_t{1} << 20;
constexpr std::size_t kMaxUncut = std::size_t{4} << 20;

enum class Part : std::uint8_t { Train, Val };

// Text that can be encoded by itself.
struct Segment {
  std::string text;
  std::string source;
  bool begins_document = false;
  Part part = Part::Train;
};

using Encoded = std::vector<std::vector<std::int32_t>>;  // tokens by segment

Encoded encode_segments(const Tokenizer& tokenizer, const std::vector<Segment>& segments) {
  Encoded encoded(segments.size());
  for (std::size_t i = 0; i < segments.size(); ++i) {
    if (segments[i].begins_document) encoded[i].push_back(tokenizer.end_of_text());
    tokenizer.encode_append(segments[i].text, encoded[i]);
  }
  return encoded;
}

// Shards and counts of one split.
class SplitWriter {
 public:
  SplitWriter(const TokenizeOptions& options, std::string name, TokenWidth width)
      : shards_(options.output, std::move(name), width, options.tokens_per_shard) {}

  void write(const Segment& segment, std::span<const std::int32_t> tokens) {
    const std::int64_t begin = shards_.tokens();
    shards_.write(tokens);
    const auto bytes = static_cast<std::int64_t>(segment.text.size());
    Stratum& stratum = strata_[segment.source];
    for (auto* count : {&split_.documents, &stratum.documents}) *count += segment.begins_document;
    for (auto* count : {&split_.text_bytes, &stratum.text_bytes}) *count += bytes;
    if (shards_.tokens() == begin) return;
    if (stratum.ranges.empty() || stratum.ranges.back().end != begin) {
      stratum.ranges.push_back({begin, begin});
    }
    stratum.ranges.back().end = shards_.tokens();
  }

  Split finish(bool with_strata) {
    shards_.finish();
    split_.shards = shards_.names();
    split_.tokens = shards_.tokens();
    split_.content_hash = shards_.content_hash();
    const bool named =
        strata_.size() > 1 || (strata_.size() == 1 && !strata_.begin()->first.empty());
    if (with_strata && named) {
      for (auto& [source, stratum] : strata_) {
        stratum.source = source;
        split_.strata.push_back(std::move(stratum));
      }
    }
    return std::move(split_);
  }

  std::int64_t tokens() const { return shards_.tokens(); }
  std::int64_t text_bytes() const { return split_.text_bytes; }
  std::int64_t documents() const { return split_.documents; }

 private:
  ShardWriter shards_;
  Split split_;
  std::map<std::string, Stratum> strata_;
};

// Reads, cuts, encodes (on up to options.threads threads) and writes, always in the input's order.
class Run {
 public:
  Run(const Tokenizer& tokenizer, const TokenizeOptions& options)
      : tokenizer_(tokenizer),
        options_(options),
        train_(options, "train", token_width_for(tokenizer.vocab_size())),
        val_(options, "val", token_width_for(tokenizer.vocab_size())) {}

  Dataset run() {
    if (options_.val_fraction > 0) {
      total_bytes_ = count_bytes();
      border_ = total_bytes_ - static_cast<std::int64_t>(std::llround(
                                   static_cast<double>(total_bytes_) * options_.val_fraction));
    }
    for (const fs::path& path : options_.inputs) read(path);
    part_ = Part::Val;
    for (const fs::path& path : options_.val_inputs) read(path);
    end_document();
    submit();
    while (!pending_.empty()) write_oldest();

    Dataset dataset{std::string(tokenizer_.name()), tokenizer_.vocab_size(),
                    fingerprint(tokenizer_), train_.finish(false), val_.finish(true)};
    NIBBLE_CHECK(dataset.train.text_bytes > 0, kOp, "the training split is empty");
    const bool val_wanted = options_.val_fraction > 0 || !options_.val_inputs.empty();
    NIBBLE_CHECK(!val_wanted || dataset.val.text_bytes > 0, kOp,
                 "the validation split is empty: the text has {} bytes, and no document or line "
                 "begins in the last {} of them; hint: a larger fraction or separate files",
                 total_bytes_, total_bytes_ - border_.value_or(total_bytes_));
    write_dataset(options_.output, dataset, tokenizer_);
    return dataset;
  }

 private:
  struct Batch {
    std::vector<Segment> segments;
    std::future<Encoded> encoded;
  };

  std::int64_t count_bytes() const {
    std::int64_t bytes = 0;
    TextPiece piece;
    for (const fs::path& path : options_.inputs) {
      const std::unique_ptr<TextReader> reader = open_text(path);
      while (reader->next(piece)) bytes += static_cast<std::int64_t>(piece.text.size());
    }
    return bytes;
  }

  void read(const fs::path& path) {
    const std::unique_ptr<TextReader> reader = open_text(path);
    TextPiece piece;
    while (reader->next(piece)) {
      if (border_ && part_ == Part::Train) split_at_border(piece);
      add(piece);
    }
  }

  // Turns to the validation split where this piece reaches it; what lies before it is added here.
  void split_at_border(TextPiece& piece) {
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

  void add(const TextPiece& piece) {
    bytes_read_ += static_cast<std::int64_t>(piece.text.size());
    if (!piece.text.empty()) last_byte_ = piece.text.back();
    if (piece.begins_document) {
      end_document();
      open_ = Segment{"", piece.source, true, part_};
    }
    std::string& text = open_->text;
    text += piece.text;
    std::size_t cut = tokenizer_.safe_cut(text);
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

  void end_document() {
    if (open_ && (open_->begins_document || !open_->text.empty())) push(std::move(*open_));
    open_.reset();
  }

  void push(Segment segment) {
    batch_bytes_ += segment.text.size();
    batch_.push_back(std::move(segment));
    if (batch_bytes_ >= kBatchBytes) submit();
  }

  void submit() {
    if (batch_.empty()) return;
    Batch& newest = pending_.emplace_back();
    newest.segments = std::move(batch_);
    newest.encoded = std::async(options_.threads > 1 ? std::launch::async : std::launch::deferred,
                                encode_segments, std::cref(tokenizer_), std::cref(newest.segments));
    batch_.clear();
    batch_bytes_ = 0;
    if (pending_.size() >= static_cast<std::size_t>(options_.threads)) write_oldest();
  }

  void write_oldest() {
    Batch& batch = pending_.front();
    const Encoded encoded = batch.encoded.get();
    for (std::size_t i = 0; i < encoded.size(); ++i) {
      SplitWriter& writer = batch.segments[i].part == Part::Train ? train_ : val_;
      writer.write(batch.segments[i], encoded[i]);
    }
    pending_.pop_front();
    if (options_.progress) {
      options_.progress({train_.text_bytes() + val_.text_bytes(), total_bytes_,
                         train_.tokens() + val_.tokens(), train_.documents() + val_.documents()});
    }
  }

  const Tokenizer& tokenizer_;
  const TokenizeOptions& options_;
  SplitWriter train_, val_;
  std::int64_t total_bytes_ = 0;
  std::optional<std::int64_t> border_;  // where validation begins, in bytes of text
  std::int64_t bytes_read_ = 0;
  char last_byte_ = '\0';
  Part part_ = Part::Train;
  std::optional<Segment> open_;  // what the current document has not yet pushed
  std::vector<Segment> batch_;
  std::size_t batch_bytes_ = 0;
  std::deque<Batch> pending_;  // oldest first; a deque, because the encoders hold references
};

void check(const TokenizeOptions& options) {
  NIBBLE_CHECK(!options.inputs.empty(), kOp, "got no input file");
  NIBBLE_CHECK(options.threads >= 1, kOp, "got {} threads expected at least 1", options.threads);
  NIBBLE_CHECK(options.val_fraction >= 0 && options.val_fraction < 1, kOp,
               "got a validation fraction of {} expected at least 0 and below 1",
               options.val_fraction);
  NIBBLE_CHECK(options.val_fraction == 0 || options.val_inputs.empty(), kOp,
               "got validation files and a validation fraction expected one of them");
  // Before hours of work, not after.
  for (const fs::path& path : options.inputs) open_text(path);
  for (const fs::path& path : options.val_inputs) open_text(path);

  NIBBLE_CHECK(!options.output.empty(), kOp, "got no output folder");
  if (!fs::exists(options.output)) return;
  NIBBLE_CHECK(fs::is_directory(options.output), kOp, "{} is a file, expected a folder",
               options.output.string());
  NIBBLE_CHECK(fs::is_empty(options.output), kOp,
               "{} is not empty; hint: choose another folder, or remove it",
               options.output.string());
}

// A folder that was empty or missing, and is so again unless the work in it succeeds.
class OutputFolder {
 public:
  explicit OutputFolder(const fs::path& path) : path_(path) {
    std::error_code error;
    created_ = fs::create_directories(path_, error);
    NIBBLE_CHECK(!error, kOp, "cannot create {}: {}", path_.string(), error.message());
  }
  ~OutputFolder() {
    if (kept_) return;
    std::error_code ignored;
    for (fs::directory_iterator entry(path_, ignored), end; !ignored && entry != end;
         entry.increment(ignored)) {
      fs::remove(entry->path(), ignored);
    }
    if (created_) fs::remove(path_, ignored);
  }
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;
  void keep() { kept_ = true; }

 private:
  const fs::path& path_;
  bool created_ = false;
  bool kept_ = false;
};

}  // namespace

Dataset tokenize_files(const Tokenizer& tokenizer, const TokenizeOptions& options) {
  check(options);
  OutputFolder folder(options.output);
  Dataset dataset = Run(tokenizer, options).run();
  folder.keep();
  return dataset;
}

}  // namespace nibble
