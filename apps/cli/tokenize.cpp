// nibble tokenize: text files to a folder of token shards.
#include <fmt/format.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "apps/cli/commands.h"
#include "data/bpe_tokenizer.h"
#include "data/bpe_trainer.h"
#include "data/hf_tokenizer.h"
#include "data/import_shards.h"
#include "data/output_folder.h"
#include "data/tokenize.h"
#include "tensor/thread_pool.h"

namespace nibble::cli {
namespace {

struct Options {
  std::vector<std::string> inputs, val_inputs, vocab;
  std::string output, tokenizer, tokenizer_from, save_vocab, import_form;
  std::optional<std::int32_t> vocab_size;
  double val_fraction = 0;
  std::int64_t shard_tokens = 100'000'000;
  Machinery machinery;
};

// What goes with token files in place of text.
void check_import(const Options& o) {
  NIBBLE_CHECK(o.val_fraction == 0, "tokenize",
               "--val-fraction is a share of text: got --import-shards, which takes --val-input");
  NIBBLE_CHECK(o.tokenizer != "bpe", "tokenize",
               "--tokenizer bpe learns from text: got --import-shards; hint: --tokenizer-from or a "
               "tokenizer.json");
  const bool named = !o.tokenizer.empty() || !o.tokenizer_from.empty();
  NIBBLE_CHECK(named != o.vocab_size.has_value(), "tokenize",
               "--import-shards needs the tokenizer that made the tokens or, when it is not known, "
               "their --vocab-size: got {}",
               named ? "both" : "neither");
}

// What does not belong together, and what is not there, before any work.
void check(const Options& o) {
  const std::string kind = o.tokenizer.empty() ? "byte" : o.tokenizer;
  NIBBLE_CHECK(o.tokenizer_from.empty() || (o.vocab.empty() && !o.vocab_size), "tokenize",
               "--tokenizer-from goes without --vocab-size and --vocab: the dataset holds all of "
               "its tokenizer");
  NIBBLE_CHECK(o.vocab.empty() || kind == "gpt2", "tokenize",
               "--vocab belongs to --tokenizer gpt2: got {}", kind);
  NIBBLE_CHECK(o.vocab.size() == 2 || kind != "gpt2", "tokenize",
               "--tokenizer gpt2 needs --vocab with its two files: got {}, expected vocab.bpe and "
               "encoder.json",
               o.vocab.size());
  if (!o.import_form.empty()) {
    check_import(o);
  } else {
    NIBBLE_CHECK(!o.vocab_size || kind == "bpe", "tokenize",
                 "--vocab-size belongs to --tokenizer bpe: got {}", kind);
    NIBBLE_CHECK(o.vocab_size || kind != "bpe", "tokenize",
                 "--tokenizer bpe needs --vocab-size, the number of tokens to learn");
  }
  if (o.save_vocab.empty()) return;
  for (const char* name : {kVocabBpeFile, kEncoderFile}) {
    const std::filesystem::path file = std::filesystem::path(o.save_vocab) / name;
    NIBBLE_CHECK(!std::filesystem::exists(file), "tokenize",
                 "--save-vocab: {} is there already; hint: choose another folder", file.string());
  }
}

// On a terminal: what has been done, on a line that is written over.
class ProgressLine {
 public:
  ~ProgressLine() { clear(); }
  void clear() const {
    if (terminal_) fmt::print(stderr, "\r\033[K");
  }
  std::function<void(const TokenizeProgress&)> watch(std::string what) const {
    if (!terminal_) return {};
    return [what = std::move(what)](const TokenizeProgress& p) {
      fmt::print(stderr, "\r{}: {:.0f} MB of text, {} tokens", what,
                 static_cast<double>(p.text_bytes) / 1e6, p.tokens);
      std::fflush(stderr);
    };
  }

 private:
  bool terminal_ = ::isatty(STDERR_FILENO) == 1;
};

std::unique_ptr<Tokenizer> learn(std::int32_t vocab_size, const TokenizeOptions& text,
                                 const ProgressLine& line) {
  BpeTraining training = train_bpe(vocab_size, text);
  line.clear();
  const std::size_t learned = training.tables.vocab.size();
  if (std::cmp_less(learned, vocab_size)) {
    fmt::print(stderr,
               "nibble: warning: {} tokens learned, not {}: no pair of them occurs twice in the "
               "{} words of the training text\n",
               learned, vocab_size, training.words);
  }
  if (training.dropped_below > 0) {
    fmt::print(stderr,
               "nibble: warning: too many words to keep them all: of some, up to {} occurrences "
               "were not counted\n",
               training.dropped_below);
  }
  return std::make_unique<BpeTokenizer>(std::move(training.tables));
}

std::unique_ptr<Tokenizer> tokenizer_of(const Options& o, const TokenizeOptions& text,
                                        const ProgressLine& line) {
  if (!o.tokenizer_from.empty()) return read_dataset_tokenizer(o.tokenizer_from);
  if (!o.import_form.empty() && o.vocab_size) {
    return std::make_unique<UnknownTokenizer>(*o.vocab_size);
  }
  if (o.tokenizer.empty() || o.tokenizer == "byte") return std::make_unique<ByteTokenizer>();
  if (o.tokenizer == "bpe") return learn(*o.vocab_size, text, line);
  if (o.tokenizer != "gpt2") return read_tokenizer_file(o.tokenizer);
  const bool swapped = o.vocab[0].ends_with(".json");
  return std::make_unique<BpeTokenizer>(
      BpeTokenizer::from_files(o.vocab[swapped ? 1 : 0], o.vocab[swapped ? 0 : 1]));
}

void print_split(const char* name, const Split& split) {
  fmt::print("{}: {} tokens, {} documents, {} bytes of text, {} shard{}\n", name, split.tokens,
             split.documents, split.text_bytes, split.shards.size(),
             split.shards.size() == 1 ? "" : "s");
}

int tokenize(const Options& o) {
  (void)o.machinery.apply();
  check(o);
  const ProgressLine line;
  TokenizeOptions options{.inputs = {o.inputs.begin(), o.inputs.end()},
                          .val_inputs = {o.val_inputs.begin(), o.val_inputs.end()},
                          .val_fraction = o.val_fraction,
                          .output = o.output,
                          .tokens_per_shard = o.shard_tokens,
                          .threads = num_threads(),
                          .progress = line.watch("learning")};
  check_output_folder(o.output);
  const std::unique_ptr<Tokenizer> tokenizer = tokenizer_of(o, options, line);
  const auto* const bpe = dynamic_cast<const BpeTokenizer*>(tokenizer.get());
  NIBBLE_CHECK(o.save_vocab.empty() || bpe != nullptr, "tokenize",
               "--save-vocab: the tokenizer \"{}\" has no vocabulary to save", tokenizer->name());
  options.progress = line.watch("writing");
  const Dataset dataset =
      o.import_form.empty()
          ? tokenize_files(*tokenizer, options)
          : import_shards(*tokenizer,
                          o.import_form == "nanogpt" ? ShardForm::NanoGpt : ShardForm::LlmC,
                          options);
  if (!o.save_vocab.empty()) bpe->write_files(o.save_vocab);
  line.clear();
  fmt::print("{}: tokenizer {}, {} words\n", o.output, dataset.tokenizer_name, dataset.vocab_size);
  print_split("train", dataset.train);
  if (dataset.val.tokens) print_split("val", dataset.val);
  return 0;
}

}  // namespace

void add_tokenize(CommandLine& line) {
  auto o = std::make_shared<Options>();
  CLI::App* c = line.app.add_subcommand("tokenize", "Turn text files into a dataset of tokens");
  c->add_option("--input", o->inputs, "Text: .txt or .jsonl, also .gz or .xz")->required();
  c->add_option("--output", o->output, "The dataset's folder, new or empty")->required();
  const CLI::Validator kinds(
      [](const std::string& kind) {
        const bool known = kind == "byte" || kind == "gpt2" || kind == "bpe";
        return known || kind.ends_with(".json")
                   ? std::string()
                   : "got " + kind + " expected byte, gpt2, bpe or a file tokenizer.json";
      },
      "KIND");
  auto* kind = c->add_option("--tokenizer", o->tokenizer,
                             "byte (the default), gpt2, bpe (learned from the text) or a "
                             "tokenizer.json")
                   ->check(kinds);
  c->add_option("--vocab", o->vocab, "For gpt2: vocab.bpe and encoder.json")->expected(2);
  c->add_option(
      "--vocab-size", o->vocab_size,
      "For bpe: how many tokens to learn, all included. For shards of an unknown tokenizer: "
      "how many different tokens there are");
  c->add_option("--tokenizer-from", o->tokenizer_from, "The tokenizer of another dataset")
      ->excludes(kind);
  c->add_option("--save-vocab", o->save_vocab,
                "A folder for the vocabulary in GPT-2's form: vocab.bpe and encoder.json");
  c->add_option("--import-shards", o->import_form,
                "The inputs are token files of llm.c or nanogpt, not text")
      ->check(CLI::IsMember({"llm.c", "nanogpt"}));
  auto* fraction = c->add_option("--val-fraction", o->val_fraction,
                                 "Share of the text, its end, that is kept for validation");
  c->add_option("--val-input", o->val_inputs, "Text for validation, in place of a share")
      ->excludes(fraction);
  c->add_option("--shard-tokens", o->shard_tokens, "Tokens a file")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40))
      ->capture_default_str();
  o->machinery.add_to(*c, false);
  c->callback([o, &line] { line.action = [o] { return tokenize(*o); }; });
}

}  // namespace nibble::cli
