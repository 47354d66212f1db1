#include "apps/cli/resume_config.h"

#include <algorithm>
#include <array>

#include "apps/config/overrides.h"
#include "apps/run/append_file.h"
#include "apps/train/checkpoints.h"
#include "apps/train/trainer.h"
#include "autograd/linear.h"
#include "quant/recipe.h"
#include "quant/words.h"
#include "tensor/json_text.h"

namespace nibble::cli {
namespace {

// data.path too: the trainer holds the data itself to its hash. What is recomputed has the same
// bits, so a run that met the end of its memory can go on with more of it. The trainer tells of
// another table of plans.
constexpr std::array<std::string_view, 19> kFree{"data.path",
                                                 "model.checkpoint_blocks",
                                                 "model.recompute",
                                                 "model.recompute_blocks",
                                                 "trainer.keep_encodings",
                                                 "trainer.steps",
                                                 "tune",
                                                 "trainer.eval_every",
                                                 "trainer.eval_batches",
                                                 "trainer.checkpoint_every",
                                                 "trainer.keep",
                                                 "trainer.log_every",
                                                 "trainer.telemetry_every",
                                                 "samples.prompts",
                                                 "samples.every",
                                                 "samples.tokens",
                                                 "samples.temperature",
                                                 "samples.top_k",
                                                 "samples.top_p"};

// Two recipes of the same numbers: what they keep, make again and fuse may differ.
Recipe numbers_of(const Json& text) {
  Recipe recipe = recipes::parse(text.get<std::string>());
  const auto strip = [](LinearRecipe& r, bool serves_head) {
    r.name.clear();
    r.exact_target = serves_head && takes_targets_out(r);
    // Codes of a delayed scale that a simulated product reuses are not made twice alike.
    const bool keeps_scale = r.wgrad.mode == Mode::Simulated && r.fprop.lhs.quant &&
                             r.fprop.lhs.quant->calibration.history > 0;
    if (!keeps_scale) r.save = Save::Original;
    r.keep_output = r.fuse = true;
  };
  recipe.name.clear();
  strip(recipe.linear, recipe.quantize_lm_head);
  for (auto& [pattern, r] : recipe.overrides) strip(r, words::matches(pattern, "lm_head"));
  // The first match wins, so the last one may go when it says what the default does: not where that
  // is none for lm_head.
  const auto says_default = [&](const auto& last) {
    return last.second == recipe.linear &&
           (recipe.quantize_lm_head || !words::matches(last.first, "lm_head"));
  };
  while (!recipe.overrides.empty() && says_default(recipe.overrides.back()))
    recipe.overrides.pop_back();
  return recipe;
}

// Both are resolved: structs of one type have the same keys, only components may differ in them.
void check_same(const Json& given, const Json& recorded, const std::string& path) {
  if (std::find(kFree.begin(), kFree.end(), path) != kFree.end() || given == recorded) return;
  if (path == "recipe" && numbers_of(given) == numbers_of(recorded)) return;
  if (given.is_object() && recorded.is_object()) {
    for (const auto& [key, value] : recorded.items())
      if (given.contains(key)) check_same(given[key], value, path.empty() ? key : path + "." + key);
    if (given.size() == recorded.size()) return;
  }
  fail("resume", "{}: got {}, expected {}, with which the run began", path, given.dump(),
       recorded.dump());
}

Json recorded_config(const std::filesystem::path& output) {
  const std::filesystem::path checkpoints = output / "checkpoints";
  if (!train::list_checkpoints(checkpoints).empty()) {
    // The trainer opens it again and is the one to tell about damaged ones.
    const Checkpoint newest = train::open_newest(checkpoints, [](const std::string&) {});
    return train::write_config(train::config_of(newest.state()));
  }
  // Killed before its first checkpoint, a run begins again as it was begun.
  const Json info = parse_json<Json>(run::read_whole_file(output / "run.json", "resume"));
  const auto sessions = info.find("sessions");
  const bool begun = info.is_object() && sessions != info.end() && sessions->is_array() &&
                     !sessions->empty() && sessions->back().is_object() &&
                     sessions->back().contains("config");
  NIBBLE_CHECK(begun, "resume", "{} holds no run that could go on", output.string());
  return train::write_config(train::read_recorded_config(sessions->back()["config"]));
}

}  // namespace

train::TrainConfig resume_config(const std::filesystem::path& output, const config::Paths& files,
                                 const std::vector<std::string>& overrides) {
  const Json recorded = recorded_config(output);
  Json json = recorded;
  if (files.empty())
    for (const std::string& assignment : overrides) config::apply_override(json, assignment);
  else
    json = config::load(files, overrides);
  train::TrainConfig given = train::read_recorded_config(json);
  check_same(train::write_config(given), recorded, "");
  return given;
}

}  // namespace nibble::cli
