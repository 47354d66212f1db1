// nibble generate: text from a checkpoint.
#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "apps/cli/commands.h"
#include "apps/cli/loaded_model.h"
#include "apps/cli/sampler.h"
#include "apps/cli/utf8_stream.h"
#include "autograd/context.h"

namespace nibble::cli {
namespace {

struct Options {
  std::string checkpoint, data, prompt;
  std::int64_t tokens = 100;
  SamplingOptions sampling;
  Machinery machinery;
};

void show(const std::string& text) {
  fmt::print("{}", text);
  std::fflush(stdout);
}

std::int32_t next_token(LanguageModel& model, const std::vector<std::int32_t>& ids,
                        std::int64_t vocab, const Options& o, std::int64_t index) {
  // The window slides once the context is full.
  const auto length = std::min(static_cast<std::int64_t>(ids.size()), model.context());
  const std::span<const std::int32_t> window(ids.end() - length, ids.end());
  const Device device = parameters(model).front()->device();
  const std::vector<float> logits =
      model.next_logits(Tensor::from(window, {1, length}, device)).to_vector();
  // A model may have more rows than its tokenizer has tokens.
  return sample(std::span(logits).first(static_cast<std::size_t>(vocab)), o.sampling,
                static_cast<std::uint64_t>(index));
}

int generate(const Options& o) {
  const Device device = o.machinery.apply();
  const LoadedModel loaded = LoadedModel::open(o.checkpoint, device);
  const std::unique_ptr<Tokenizer> tokenizer = loaded.tokenizer(o.data);
  std::vector<std::int32_t> ids = tokenizer->encode_with_special(o.prompt);
  // A document begins after the separator, in training too.
  if (ids.empty()) ids.push_back(tokenizer->end_of_text());
  const ForwardScope scope(ForwardContext{});
  Utf8Stream stream;
  show(stream.push(o.prompt));
  for (std::int64_t i = 0; i < o.tokens; ++i) {
    const std::int32_t id = next_token(*loaded.model, ids, loaded.vocab, o, i);
    if (id == tokenizer->end_of_text()) break;
    ids.push_back(id);
    show(stream.push(tokenizer->token_bytes(id)));
  }
  show(stream.finish() + "\n");
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
  c->add_option("--temperature", o->sampling.temperature, "Below 1 safer, above 1 wilder")
      ->check(CLI::Range(1e-3, 1e3))
      ->capture_default_str();
  c->add_option("--top-k", o->sampling.top_k, "Draw among the k likeliest; 0: all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  c->add_option("--top-p", o->sampling.top_p, "Draw among the likeliest of this total probability")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  c->add_option("--seed", o->sampling.seed, "The same seed gives the same text")
      ->capture_default_str();
  c->add_flag("--greedy", o->sampling.greedy, "Always the likeliest token");
  c->add_option("--data", o->data, "A dataset with the tokenizer; the one trained on unless given");
  o->machinery.add_to(*c);
  c->callback([o, &line] { line.action = [o] { return generate(*o); }; });
}

}  // namespace nibble::cli
