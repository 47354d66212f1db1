#include "apps/cli/loaded_model.h"

#include <cstdio>

#include "apps/train/build.h"
#include "apps/train/checkpoints.h"
#include "apps/train/trainer.h"
#include "apps/train/weights.h"
#include "data/dataset.h"
#include "data/hf_tokenizer.h"
#include "quant/recipe.h"

namespace nibble::cli {

LoadedModel LoadedModel::open(const std::filesystem::path& path, Device device,
                              const std::string& recipe) {
  const Checkpoint checkpoint = train::open_any(
      path, [](const std::string& text) { fmt::print(stderr, "nibble: warning: {}\n", text); });
  const Json state = checkpoint.state();
  LoadedModel loaded{.path = checkpoint.file().path(),
                     .step = train::state_number(state, "step"),
                     .vocab = train::state_number(state, "vocab"),
                     .config = train::config_of(state),
                     .model = {}};
  NIBBLE_CHECK(loaded.vocab > 0, "checkpoint", "{} does not say the size of its vocabulary",
               loaded.path.string());
  if (!recipe.empty()) {
    Recipe chosen = recipes::parse(recipe);
    // Whether the head is a weight of its own was decided by training.
    chosen.tie_embeddings = recipes::parse(loaded.config.recipe)
                                .tie_embeddings.value_or(loaded.config.model.tie_embeddings);
    loaded.config.recipe = recipes::to_string(chosen);
  }
  train::check_weights(loaded.config, loaded.vocab, checkpoint.file());
  loaded.model = train::build_model(loaded.config, loaded.vocab, device);
  NIBBLE_CHECK(loaded.vocab <= loaded.model->vocab(), "checkpoint",
               "{}: got a vocabulary of {} tokens and a model of {}", loaded.path.string(),
               loaded.vocab, loaded.model->vocab());
  train::load_weights(*loaded.model, checkpoint);
  return loaded;
}

void LoadedModel::check_vocabulary(std::int64_t size, const std::filesystem::path& owner) const {
  NIBBLE_CHECK(size == vocab, "vocabulary",
               "{} does not fit the checkpoint {}: got {} tokens, expected {}", owner.string(),
               path.string(), size, vocab);
}

std::filesystem::path LoadedModel::dataset(const std::filesystem::path& data) const {
  NIBBLE_CHECK(!data.empty() || !config.data.path.empty(), "data",
               "{} was imported and knows no dataset; --data names one", path.string());
  return data.empty() ? config.data.path : data;
}

std::unique_ptr<Tokenizer> LoadedModel::tokenizer(const std::filesystem::path& data) const {
  if (data.empty() && config.data.path.empty()) {
    // RUN/checkpoints/FILE: import puts the tokenizer into RUN.
    const std::filesystem::path file =
        std::filesystem::absolute(path).parent_path().parent_path() / kTokenizerFile;
    NIBBLE_CHECK(std::filesystem::exists(file), "vocabulary",
                 "{} is not there; --data names a dataset with the model's tokenizer",
                 file.string());
    std::unique_ptr<Tokenizer> t = read_tokenizer_file(file);
    check_vocabulary(t->vocab_size(), file);
    return t;
  }
  const std::filesystem::path folder = dataset(data);
  NIBBLE_CHECK(std::filesystem::exists(folder / kTokenizerFile), "vocabulary",
               "{} is not there; --data names the dataset that the model was trained on",
               (folder / kTokenizerFile).string());
  std::unique_ptr<Tokenizer> t = read_dataset_tokenizer(folder);
  check_vocabulary(t->vocab_size(), folder);
  return t;
}

}  // namespace nibble::cli
