#include "data/tokenize.h"

#include <algorithm>
#include <map>

#include "data/ordered_tasks.h"
#include "data/output_folder.h"
#include "data/segments.h"
#include "data/shard.h"
#include "tensor/check.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
constexpr const char* kOp = "tokenize";

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

struct Batch {
  std::vector<Segment> segments;
  Encoded encoded;
};

// Reads, cuts, encodes (on up to options.threads threads) and writes, always in the input's order.
class Run {
 public:
  Run(const Tokenizer& tokenizer, const TokenizeOptions& options)
      : tokenizer_(tokenizer),
        options_(options),
        train_(options, "train", token_width_for(tokenizer.vocab_size())),
        val_(options, "val", token_width_for(tokenizer.vocab_size())),
        reader_(
            options, [this](std::string_view text) { return tokenizer_.safe_cut(text); },
            [this](std::vector<Segment> segments) { submit(std::move(segments)); }),
        tasks_(options.threads, [this](const Batch& batch) { write(batch); }) {}

  Dataset run() {
    reader_.read();
    tasks_.finish();

    Dataset dataset{std::string(tokenizer_.name()), tokenizer_.vocab_size(),
                    fingerprint(tokenizer_), train_.finish(false), val_.finish(true)};
    NIBBLE_CHECK(dataset.train.text_bytes > 0, kOp, "the training split is empty");
    const bool val_wanted = options_.val_fraction > 0 || !options_.val_inputs.empty();
    const std::int64_t total = reader_.total_bytes();
    NIBBLE_CHECK(!val_wanted || dataset.val.text_bytes > 0, kOp,
                 "the validation split is empty: the text has {} bytes, and no document or line "
                 "begins in the last {} of them; hint: a larger fraction or separate files",
                 total, total - reader_.border().value_or(total));
    write_dataset(options_.output, dataset, tokenizer_);
    return dataset;
  }

 private:
  void submit(std::vector<Segment> segments) {
    tasks_.submit([this, batch = std::move(segments)]() mutable {
      Encoded encoded = encode_segments(tokenizer_, batch);
      return Batch{std::move(batch), std::move(encoded)};
    });
  }

  void write(const Batch& batch) {
    for (std::size_t i = 0; i < batch.segments.size(); ++i) {
      SplitWriter& writer = batch.segments[i].part == Part::Train ? train_ : val_;
      writer.write(batch.segments[i], batch.encoded[i]);
    }
    if (options_.progress) {
      options_.progress({train_.text_bytes() + val_.text_bytes(), reader_.total_bytes(),
                         train_.tokens() + val_.tokens(), train_.documents() + val_.documents()});
    }
  }

  const Tokenizer& tokenizer_;
  const TokenizeOptions& options_;
  SplitWriter train_, val_;
  SegmentReader reader_;
  OrderedTasks<Batch> tasks_;
};

}  // namespace

Dataset tokenize_files(const Tokenizer& tokenizer, const TokenizeOptions& options) {
  check_text_options(options);
  OutputFolder folder(options.output);
  Dataset dataset = Run(tokenizer, options).run();
  folder.keep();
  return dataset;
}

}  // namespace nibble
