// nibble tokenize: text files to a folder of token shards.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "apps/cli/commands.h"
#include "data/bpe_tokenizer.h"
#include "data/tokenize.h"
#include "tensor/thread_pool.h"

namespace nibble::cli {
namespace {

struct Options {
  std::vector<std::string> inputs, val_inputs, vocab;
  std::string output, tokenizer = "byte";
  double val_fraction = 0;
  std::int64_t shard_tokens = 100'000'000;
  Machinery machinery;
};

std::unique_ptr<Tokenizer> tokenizer_of(const Options& o) {
  if (o.tokenizer == "byte") {
    NIBBLE_CHECK(o.vocab.empty(), "tokenize", "--vocab belongs to --tokenizer gpt2: got byte");
    return std::make_unique<ByteTokenizer>();
  }
  NIBBLE_CHECK(o.vocab.size() == 2, "tokenize",
               "--tokenizer gpt2 needs --vocab with its two files: got {}, expected vocab.bpe and "
               "encoder.json",
               o.vocab.size());
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
  TokenizeOptions options{.inputs = {o.inputs.begin(), o.inputs.end()},
                          .val_inputs = {o.val_inputs.begin(), o.val_inputs.end()},
                          .val_fraction = o.val_fraction,
                          .output = o.output,
                          .tokens_per_shard = o.shard_tokens,
                          .threads = num_threads(),
                          .progress = {}};
  const bool terminal = ::isatty(STDERR_FILENO) == 1;
  if (terminal)
    options.progress = [](const TokenizeProgress& p) {
      fmt::print(stderr, "\r{:.0f} MB of text, {} tokens", static_cast<double>(p.text_bytes) / 1e6,
                 p.tokens);
      std::fflush(stderr);
    };
  const std::unique_ptr<Tokenizer> tokenizer = tokenizer_of(o);
  const Dataset dataset = tokenize_files(*tokenizer, options);
  if (terminal) fmt::print(stderr, "\r\033[K");
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
  c->add_option("--tokenizer", o->tokenizer, "byte or gpt2")
      ->check(CLI::IsMember({"byte", "gpt2"}))
      ->capture_default_str();
  c->add_option("--vocab", o->vocab, "For gpt2: vocab.bpe and encoder.json")->expected(2);
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
