// nibble compare, layer by layer: two models on one batch.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "apps/cli/commands.h"
#include "apps/train/train_config.h"
#include "models/language_model.h"
#include "nn/checkpoint_file.h"

namespace nibble::cli {

struct LayerOptions {
  std::vector<std::string> checkpoints;  // files, or folders of them
  std::vector<std::string> configs, recipes, overrides;
  std::string init, data, split = "train";
  std::int64_t batch = 1, sequence = 0, window = 0;
  std::optional<std::uint64_t> seed;
  double threshold_db = 20;
  std::vector<std::pair<std::string, std::string>> dumps;  // name, folder
  std::optional<std::string> json;                         // "": the standard output
  Machinery machinery;
};

// What stands on one side, before it is built.
struct Side {
  std::string label;
  train::TrainConfig config;
  std::shared_ptr<const Checkpoint> weights;  // null: initialised by the seed
  std::int64_t vocab = 0;                     // of the weights; 0 without any
};
// A and B of the options: two checkpoints; a checkpoint or configuration under two recipes; or two
// configurations. Throws Error("compare") for any other choice.
std::pair<Side, Side> sides_of(const LayerOptions& options);
std::unique_ptr<LanguageModel> build_side(const Side& side, std::int64_t vocab, std::uint64_t seed,
                                          Device device);

int compare_layers(const LayerOptions& options);
// To a file, or to the standard output for "-" and "".
void write_json(const std::string& file, const Json& json);

}  // namespace nibble::cli
