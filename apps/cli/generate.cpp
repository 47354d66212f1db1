// nibble generate: text from a checkpoint.
#include <fmt/format.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <cstdio>
#include <memory>

#include "apps/cli/commands.h"
#include "apps/cli/loaded_model.h"
#include "apps/cli/text_layout.h"
#include "apps/train/generate.h"

namespace nibble::cli {
namespace {

struct Options {
  std::string checkpoint, data, prompt, recipe;
  std::int64_t tokens = 100;
  train::SamplingOptions sampling;
  bool no_cache = false;
  Machinery machinery;
};

void show(const std::string& text) {
  static const bool terminal = ::isatty(STDOUT_FILENO) == 1;
  fmt::print("{}", terminal ? escape_controls(text) : text);
  std::fflush(stdout);
}

int generate(const Options& o) {
  const Device device = o.machinery.apply();
  const LoadedModel loaded = LoadedModel::open(o.checkpoint, device, o.recipe);
  const std::unique_ptr<Tokenizer> tokenizer = loaded.tokenizer(o.data);
  train::generate(*loaded.model, *tokenizer, loaded.vocab, o.prompt,
                  {.tokens = o.tokens, .sampling = o.sampling, .cached = !o.no_cache}, show);
  show("\n");
  return 0;
}

}  // namespace

void add_generate(CommandLine& line) {
  auto o = std::make_shared<Options>();
  CLI::App* c = line.app.add_subcommand("generate", "Write text with a checkpoint");
  c->add_option("--checkpoint", o->checkpoint, "A checkpoint, or a run's folder: its newest one")
      ->required();
  c->add_option("--prompt", o->prompt, "The text to go on from; \"\" begins a document");
  c->add_option("--tokens", o->tokens, "How many at most; the end of the text ends it too")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40))
      ->capture_default_str();
  c->add_option("--temperature", o->sampling.temperature,
                "Below 1 safer, above 1 wilder; 0: greedy")
      ->check(CLI::Range(0.0, 1e3))
      ->capture_default_str();
  c->add_option("--top-k", o->sampling.top_k, "Draw among the k likeliest; 0: all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  c->add_option("--top-p", o->sampling.top_p, "Draw among the likeliest of this total probability")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  c->add_option("--seed", o->sampling.seed, "The same seed gives the same text")
      ->capture_default_str();
  c->add_flag("--greedy", o->sampling.greedy,
              "Always the likeliest token, of equals the lowest; no draw");
  c->add_option("--recipe", o->recipe,
                "Quantize as this recipe says, e.g. int8, in place of the one trained with");
  c->add_flag("--no-cache", o->no_cache,
              "Read the whole text for every token, as training does; slower");
  c->add_option("--data", o->data, "A dataset with the tokenizer; the one trained on unless given");
  o->machinery.add_to(*c);
  c->callback([o, &line] { line.action = [o] { return generate(*o); }; });
}

}  // namespace nibble::cli
