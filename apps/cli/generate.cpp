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

// Logits after the tokens so far. The model reads each token once while the text fits its context;
// beyond it the window slides and is read anew for every token, because positions are learned.
class Reader {
 public:
  explicit Reader(LanguageModel& model)
      : model_(model),
        device_(parameters(model).front()->device()),
        cache_(model.make_cache(1, model.context())) {}

  std::vector<float> logits(const std::vector<std::int32_t>& ids) {
    const auto count = static_cast<std::int64_t>(ids.size());
    if (count > model_.context())
      return model_.next_logits(tensor(ids, model_.context())).to_vector();
    return model_.extend(tensor(ids, count - cache_.length), cache_).to_vector();
  }

 private:
  Tensor tensor(const std::vector<std::int32_t>& ids, std::int64_t last) const {
    return Tensor::from(std::span<const std::int32_t>(ids.end() - last, ids.end()), {1, last},
                        device_);
  }
  LanguageModel& model_;
  Device device_;
  KvCache cache_;
};

int generate(const Options& o) {
  const Device device = o.machinery.apply();
  const LoadedModel loaded = LoadedModel::open(o.checkpoint, device);
  const std::unique_ptr<Tokenizer> tokenizer = loaded.tokenizer(o.data);
  std::vector<std::int32_t> ids = tokenizer->encode_with_special(o.prompt);
  // A document begins after the separator, in training too.
  if (ids.empty()) ids.push_back(tokenizer->end_of_text());
  const ForwardScope scope(ForwardContext{});
  if (static_cast<std::int64_t>(ids.size()) > loaded.model->context())
    ids.erase(ids.begin(), ids.end() - loaded.model->context());
  Reader reader(*loaded.model);
  Utf8Stream stream;
  show(stream.push(o.prompt));
  for (std::int64_t i = 0; i < o.tokens; ++i) {
    const std::vector<float> logits = reader.logits(ids);
    // A model may have more rows than its tokenizer has tokens.
    const std::int32_t id = sample(std::span(logits).first(static_cast<std::size_t>(loaded.vocab)),
                                   o.sampling, static_cast<std::uint64_t>(i));
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
