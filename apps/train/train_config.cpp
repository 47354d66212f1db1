#include "apps/train/train_config.h"

#include "apps/train/build.h"
#include "quant/recipe.h"

namespace nibble::train {

std::optional<Recompute> recompute_of(std::string_view name) {
  if (name == "none") return Recompute::None;
  if (name == "inputs") return Recompute::Inputs;
  if (name == "mlp") return Recompute::Mlp;
  if (name == "products") return Recompute::Products;
  if (name == "sums") return Recompute::Sums;
  return std::nullopt;
}

const config::Words<NotFinite>& words_of(NotFinite) {
  static const config::Words<NotFinite> words{{"stop", NotFinite::Stop}, {"skip", NotFinite::Skip}};
  return words;
}

const config::Words<UpdateTime>& words_of(UpdateTime) {
  static const config::Words<UpdateTime> words{{"at_end", UpdateTime::AtEnd},
                                               {"in_backward", UpdateTime::InBackward}};
  return words;
}

namespace {

TrainConfig read_any_config(const Json& json) {
  TrainConfig c = config::read<TrainConfig>(json);
  c.recipe = recipes::to_string(recipes::parse(c.recipe));
  c.optimizer.path = "optimizer";
  optimizers().resolve(c.optimizer);
  schedule_of(c.trainer).validate();
  gpt2_of(c.model, c.model.vocab ? c.model.vocab : 1).validate();
  return c;
}

}  // namespace

TrainConfig read_recorded_config(Json json) {
  if (json.is_object() && json.contains("model") && json["model"].is_object())
    json["model"].erase("vocab_chunk");  // until 2026-11-29
  return read_any_config(json);
}

TrainConfig read_config(const Json& json) {
  TrainConfig c = read_any_config(json);
  gpt2_of(c.model, 1).check_layers(recipes::parse(c.recipe));
  return c;
}

Json write_config(const TrainConfig& c) { return config::write(c); }

Schedule schedule_of(const TrainerConfig& c) {
  return {.kind = parse_schedule(c.schedule),
          .peak = c.lr,
          .floor = c.lr_floor,
          .warmup = c.warmup,
          .total = c.steps,
          .decay = c.decay};
}

Gpt2Config gpt2_of(const ModelConfig& m, std::int64_t dataset_vocab) {
  Gpt2Config g = m.size.empty() ? Gpt2Config{} : Gpt2Config::named(m.size);
  g.layers = m.layers.value_or(g.layers);
  g.heads = m.heads.value_or(g.heads);
  g.width = m.width.value_or(g.width);
  g.context = m.context.value_or(g.context);
  g.vocab = m.vocab ? m.vocab : dataset_vocab;
  g.embedding_dropout = m.embedding_dropout.value_or(m.dropout);
  g.attention_dropout = m.attention_dropout.value_or(m.dropout);
  g.residual_dropout = m.residual_dropout.value_or(m.dropout);
  g.tie_embeddings = m.tie_embeddings;
  g.checkpoint_blocks = m.checkpoint_blocks;
  g.recompute = recompute_of(m.recompute).value_or(Recompute::None);
  g.recompute_blocks = m.recompute_blocks.value_or(-1);
  g.token_chunk = m.token_chunk;
  g.gelu = m.gelu == "erf" ? ops::Gelu::Erf : ops::Gelu::Tanh;
  g.norm_epsilon = m.norm_epsilon;
  g.init_std = m.init_std;
  g.compute = parse_dtype(m.compute);
  return g;
}

}  // namespace nibble::train
