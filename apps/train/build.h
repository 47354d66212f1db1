// From a configuration to a model and its optimizer.
#pragma once

#include <memory>

#include "apps/config/registry.h"
#include "apps/train/train_config.h"
#include "models/language_model.h"
#include "optim/optimizer.h"
#include "quant/recipe.h"

namespace nibble::train {

// What an optimizer's factory gets besides its own parameters. Groups: decayed, then the others.
struct OptimizerInputs {
  std::vector<ParameterGroup> groups;
  MomentRecipe moments;
  // The study encodes the moments of linear layers' weights only.
  std::function<bool(const Parameter&)> is_linear_weight;
  std::uint64_t seed;

  // A slot for a moment: the codec named in the optimizer's parameters, else the recipe's word for
  // it.
  StateSlot slot(const std::string& name, const std::string& own,
                 const std::string& from_recipe) const;
};
using OptimizerRegistry = config::Registry<std::unique_ptr<Optimizer>, const OptimizerInputs&>;
// "adamw" and "sgd"; a program adds its own before nibble::cli::run.
OptimizerRegistry& optimizers();

std::unique_ptr<LanguageModel> build_model(const TrainConfig& config, std::int64_t dataset_vocab,
                                           Device device);
// Tokens of a row. Throws when the model has no room for them.
std::int64_t sequence_of(const TrainConfig& config, const LanguageModel& model);
// All buffers of gradients at once: the first backward pass would strew them among activations.
void allocate_gradients(const std::vector<Parameter*>& parameters);
std::unique_ptr<Optimizer> build_optimizer(const TrainConfig& config, LanguageModel& model);

}  // namespace nibble::train
