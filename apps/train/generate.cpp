#include "apps/train/generate.h"

#include "apps/train/utf8_stream.h"
#include "autograd/context.h"

namespace nibble::train {

LogitsReader::LogitsReader(LanguageModel& model, bool cached)
    : model_(model), device_(parameters(model).front()->device()) {
  if (cached) cache_ = model.make_cache(1, model.context());
}

std::vector<float> LogitsReader::logits(const std::vector<std::int32_t>& ids) {
  const auto last = [&](std::int64_t count) {
    return Tensor::from(std::span<const std::int32_t>(ids.end() - count, ids.end()), {1, count},
                        device_);
  };
  const ForwardScope scope(ForwardContext{});
  const auto count = static_cast<std::int64_t>(ids.size());
  if (cache_ && count <= model_.context())
    return model_.extend(last(count - cache_->length), *cache_).to_vector();
  return model_.next_logits(last(std::min(count, model_.context()))).to_vector();
}

Generated generate(LanguageModel& model, const Tokenizer& tokenizer, std::int64_t vocab,
                   std::string_view prompt, const GenerateOptions& options,
                   const std::function<void(const std::string&)>& show) {
  std::vector<std::int32_t> ids = tokenizer.encode_with_special(prompt);
  // A document begins after the separator, in training too.
  if (ids.empty()) ids.push_back(tokenizer.end_of_text());
  if (static_cast<std::int64_t>(ids.size()) > model.context())
    ids.erase(ids.begin(), ids.end() - model.context());
  LogitsReader reader(model, options.cached);
  Utf8Stream stream;
  Generated result;
  const auto push = [&](std::string_view bytes) {
    const std::string piece = stream.push(bytes);
    if (show) show(piece);
    return piece;
  };
  push(prompt);
  while (result.tokens < options.tokens && !result.ended) {
    const std::vector<float> logits = reader.logits(ids);
    const std::int32_t id = sample(std::span(logits).first(static_cast<std::size_t>(vocab)),
                                   options.sampling, static_cast<std::uint64_t>(result.tokens));
    result.ended = id == tokenizer.end_of_text();
    if (result.ended) break;
    ids.push_back(id);
    ++result.tokens;
    result.text += push(tokenizer.token_bytes(id));
  }
  const std::string rest = stream.finish();
  if (show) show(rest);
  result.text += rest;
  return result;
}

}  // namespace nibble::train
