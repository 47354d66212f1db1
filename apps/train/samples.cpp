#include "apps/train/samples.h"

#include "apps/train/session.h"

namespace nibble::train {

SampleLog::SampleLog(const std::filesystem::path& file, std::int64_t step) : rows_(file) {
  // A run killed among the samples of its last step has some of them behind its last checkpoint.
  for (const Json& row : run::read_metrics(file))
    if (row["step"] == step && row.contains("prompt") && row["prompt"].is_string())
      written_.emplace(step, row["prompt"].get<std::string>());
}

void SampleLog::write(std::int64_t step, const std::string& prompt, const Generated& sample) {
  rows_.write({{"step", step},
               {"prompt", prompt},
               {"text", sample.text},
               {"tokens", sample.tokens},
               {"ended", sample.ended}});
  written_.emplace(step, prompt);
}

std::unique_ptr<Tokenizer> sample_tokenizer(const TrainConfig& config) {
  if (config.samples.prompts.empty()) return nullptr;
  std::unique_ptr<Tokenizer> tokenizer = read_dataset_tokenizer(config.data.path);
  NIBBLE_CHECK(tokenizer->end_of_text() != kNoToken, "train",
               "samples.prompts: {} was imported without its tokenizer: its tokens have no text; "
               "--set samples.prompts=[] draws none",
               config.data.path.string());
  return tokenizer;
}

void Session::sample_now() {
  const SamplesConfig& s = config_.samples;
  for (const std::string& prompt : s.prompts) {
    if (samples_->has(step_, prompt)) continue;
    const MemoryScope memory("samples");
    try {
      Generated sample;
      in_shared_memory([&] {
        sample = generate(*model_, *tokenizer_, dataset_.vocab_size, prompt,
                          {.tokens = s.tokens,
                           .sampling = {.temperature = s.temperature,
                                        .top_k = s.top_k,
                                        .top_p = s.top_p,
                                        .seed = config_.trainer.seed}});
      });
      samples_->write(step_, prompt, sample);
    } catch (const Error& e) {
      // Whether the numbers are good enough to train on is for the next step to say.
      if (e.op() != "generate") throw;
      progress_.message(fmt::format("warning: step {}: no sample: {}", step_, e.what()));
    }
  }
}

}  // namespace nibble::train
