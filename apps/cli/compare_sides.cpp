// Which two models `nibble compare` runs, and how they come by equal weights.
#include <fmt/format.h>

#include <cstdio>

#include "apps/cli/compare_layers.h"
#include "apps/config/jsonnet.h"
#include "apps/train/build.h"
#include "apps/train/checkpoints.h"
#include "apps/train/trainer.h"
#include "apps/train/weights.h"

namespace nibble::cli {
namespace {

constexpr const char* kOp = "compare";

void warn(const std::string& text) { fmt::print(stderr, "nibble: warning: {}\n", text); }

void load_into(Side& side, const std::string& path) {
  side.weights = std::make_shared<const Checkpoint>(train::open_any(path, warn));
  side.vocab = train::state_number(side.weights->state(), "vocab");
  NIBBLE_CHECK(side.vocab > 0, "checkpoint", "{} does not say the size of its vocabulary",
               side.weights->file().path().string());
}

Side from_checkpoint(const std::string& path) {
  Side side;
  load_into(side, path);
  side.config = train::config_of(side.weights->state());
  side.label = fmt::format("{}, step {}", side.weights->file().path().string(),
                           train::state_number(side.weights->state(), "step"));
  return side;
}

Side from_config(const LayerOptions& o, const std::string& files) {
  Json text = config::load(config::split_files(files), o.overrides);
  // A configuration that ships names no data.
  if (!text.contains("data")) text["data"] = Json::object();
  if (text["data"].is_object() && (!o.data.empty() || text["data"].empty()))
    text["data"]["path"] = o.data;
  Side side{.label = files, .config = train::read_config(text), .weights = {}, .vocab = 0};
  if (o.init.empty()) return side;
  load_into(side, o.init);
  side.label += fmt::format(", weights of {}", side.weights->file().path().string());
  return side;
}

bool wants_tied(const Side& side) {
  return recipes::parse(side.config.recipe)
      .tie_embeddings.value_or(side.config.model.tie_embeddings);
}

// Some recipes untie the head. Two sides of one model must agree on it, or different weights would
// be compared: as the checkpoint has it, or as A does.
void tie_alike(Side& a, Side& b) {
  bool tied = wants_tied(a);
  if (a.weights) {
    const SafetensorsFile& file = a.weights->file();
    tied = !file.find("lm_head.weight") && !file.find("lm_head.weight/codes");
  }
  for (Side* side : {&a, &b}) {
    if (wants_tied(*side) == tied) continue;
    Recipe recipe = recipes::parse(side->config.recipe);
    recipe.tie_embeddings = tied;
    side->config.recipe = recipes::to_string(recipe);
  }
}

Side with_recipe(Side side, const std::string& recipe) {
  side.config.recipe = recipes::to_string(recipes::parse(recipe));
  return side;
}

}  // namespace

std::pair<Side, Side> sides_of(const LayerOptions& o) {
  const std::size_t checkpoints = o.checkpoints.size(), configs = o.configs.size(),
                    recipes = o.recipes.size();
  NIBBLE_CHECK(!checkpoints || (o.init.empty() && o.overrides.empty()), kOp,
               "--init and --set are for configurations: got the checkpoint {}",
               o.checkpoints.front());
  std::pair<Side, Side> sides;
  if (checkpoints == 2 && configs == 0 && recipes == 0) {
    sides = {from_checkpoint(o.checkpoints[0]), from_checkpoint(o.checkpoints[1])};
  } else if (checkpoints == 0 && configs == 2 && recipes == 0) {
    sides = {from_config(o, o.configs[0]), from_config(o, o.configs[1])};
  } else if (checkpoints + configs == 1 && recipes == 2) {
    const Side one = checkpoints ? from_checkpoint(o.checkpoints[0]) : from_config(o, o.configs[0]);
    sides = {with_recipe(one, o.recipes[0]), with_recipe(one, o.recipes[1])};
  } else {
    fail(
        kOp,
        "got {} checkpoints, {} --config and {} --recipe; expected two checkpoints, one checkpoint "
        "or --config with two --recipe, or two --config",
        checkpoints, configs, recipes);
  }
  if (checkpoints < 2) tie_alike(sides.first, sides.second);
  for (Side* side : {&sides.first, &sides.second})
    side->label += fmt::format(", recipe {}", side->config.recipe);
  return sides;
}

std::unique_ptr<LanguageModel> build_side(const Side& side, std::int64_t vocab, std::uint64_t seed,
                                          Device device) {
  train::TrainConfig config = side.config;
  config.trainer.seed = seed;              // initial values are drawn from (seed, name)
  config.model.checkpoint_blocks = false;  // the same bits; outputs come in forward
  if (side.weights) train::check_weights(config, vocab, side.weights->file());
  std::unique_ptr<LanguageModel> model = train::build_model(config, vocab, device);
  if (side.weights) train::load_weights(*model, *side.weights);
  return model;
}

}  // namespace nibble::cli
