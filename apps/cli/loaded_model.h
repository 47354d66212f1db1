// A trained model, from a checkpoint to something that can be asked.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "apps/train/train_config.h"
#include "data/tokenizer.h"
#include "models/language_model.h"

namespace nibble::cli {

struct LoadedModel {
  std::filesystem::path path;  // of the checkpoint itself
  std::int64_t step = 0;
  std::int64_t vocab =
      0;  // of the tokenizer that made the training data; the model's may be larger
  train::TrainConfig config;
  std::unique_ptr<LanguageModel> model;

  // `path`: a checkpoint, or a run's folder for its newest intact one (damaged newer ones are named
  // on stderr). `recipe`: how it quantizes, in words; "": as it was trained. The weights are the
  // checkpoint's either way, stored as the recipe says. Throws Error naming what is wrong.
  static LoadedModel open(const std::filesystem::path& path, Device device,
                          const std::string& recipe = "");
  // The tokenizer of the dataset in `data`, "" for the one the model was trained on or, when it was
  // imported, came with. Throws Error("vocabulary") when it is of another size than the model's.
  std::unique_ptr<Tokenizer> tokenizer(const std::filesystem::path& data) const;
  // `data`, or the dataset trained on; throws Error("data") when there is none, after an import.
  std::filesystem::path dataset(const std::filesystem::path& data) const;
  void check_vocabulary(std::int64_t size, const std::filesystem::path& owner) const;
};

}  // namespace nibble::cli
