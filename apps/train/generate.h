// Text from a language model, token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "apps/train/sampler.h"
#include "data/tokenizer.h"
#include "models/language_model.h"

namespace nibble::train {

// Logits after the tokens so far. With a cache the model reads each token once while the text fits
// its context; beyond it the window slides and is read anew for every token, because positions are
// learned. Without one the window is always read anew. The two agree as far as the recipe lets a
// row's values be independent of the rows read with it (tiles of several rows, quant/segments.h).
class LogitsReader {
 public:
  LogitsReader(LanguageModel& model, bool cached);
  // After all of `ids`, which must begin with those of the last call: [V] in F32.
  std::vector<float> logits(const std::vector<std::int32_t>& ids);

 private:
  LanguageModel& model_;
  Device device_;
  std::optional<KvCache> cache_;
};

struct GenerateOptions {
  std::int64_t tokens = 100;  // at most
  SamplingOptions sampling;
  bool cached = true;
};
struct Generated {
  std::string text;         // what follows the prompt, valid UTF-8
  std::int64_t tokens = 0;  // read from the model, the end of the text not counted
  bool ended = false;       // by the end of the text
};
// Goes on from `prompt`, of which the model sees the last context() tokens; "" begins a document.
// A function of weights, prompt and options alone: token i draws at (seed, i), and nothing that
// training reads is touched. `vocab`: tokens of the tokenizer; the model may have more rows. `show`
// gets the prompt and then the text in pieces, valid UTF-8. Throws Error("generate") for logits
// that are not finite.
Generated generate(LanguageModel& model, const Tokenizer& tokenizer, std::int64_t vocab,
                   std::string_view prompt, const GenerateOptions& options,
                   const std::function<void(const std::string&)>& show = {});

}  // namespace nibble::train
