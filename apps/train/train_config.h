// The configuration of a run: what `nibble train` reads, resolves and records.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "apps/config/reader.h"
#include "apps/config/registry.h"
#include "models/gpt2.h"
#include "optim/schedule.h"

namespace nibble::train {

struct ModelConfig {
  std::string type = "gpt2";
  std::string
      size;  // "gpt2" … "gpt2-xl": where layers, heads and width come from when they are null
  std::optional<std::int64_t> layers, heads, width, context;
  std::int64_t vocab = 0;  // 0: the dataset's
  double dropout = 0;      // of embeddings, attention and residuals, unless given apart
  std::optional<double> embedding_dropout, attention_dropout, residual_dropout;
  bool tie_embeddings = true;
  bool checkpoint_blocks = false;
  std::string recompute = "none";  // none, inputs, mlp, products or sums: models/gpt2.h
  std::optional<std::int64_t> recompute_blocks;  // that go beyond inputs; null: all
  std::int64_t token_chunk = 0;                  // rows of logits at a time; 0: chosen by size
  std::string gelu = "tanh";
  double norm_epsilon = 1e-5;
  double init_std = 0.02;
  std::string compute = "f32";  // of activations and of the dense products' operands: f32 or bf16
};

struct DataConfig {
  std::filesystem::path path;
  std::int64_t sequence = 0;  // tokens a window; 0: the model's context
};

// A level by its name; none for another word.
std::optional<Recompute> recompute_of(std::string_view name);

enum class NotFinite : std::uint8_t {
  Stop,  // rerun the batch with a check at every operation, name the first bad tensor, stop
  Skip,  // leave the step out and count it
};
const config::Words<NotFinite>& words_of(NotFinite);

enum class UpdateTime : std::uint8_t {
  AtEnd,       // once all gradients are there
  InBackward,  // some parameters at a time while backward runs; their gradients are then freed
};
const config::Words<UpdateTime>& words_of(UpdateTime);

struct TrainerConfig {
  std::int64_t steps = 1000, batch = 8, accumulation = 1;
  double lr = 6e-4, lr_floor = 0.1;
  std::string schedule = "cosine";
  std::int64_t warmup = 100, decay = 0;
  double weight_decay = 0.1;
  double clip = 1;            // the global norm of all gradients to at most this; 0: not
  double clip_parameter = 0;  // the same for each parameter's gradient, for updates in backward
  UpdateTime update = UpdateTime::AtEnd;
  bool keep_encodings = false;  // of weights, from step to step; updates at the end always do
  std::uint64_t seed = 1;
  NotFinite on_not_finite = NotFinite::Stop;
  std::int64_t eval_every = 250, eval_batches = 0;   // 0 batches: the whole split
  std::int64_t checkpoint_every = 500, keep = 2;     // keep 0: no checkpoint is written at all
  std::int64_t log_every = 10, telemetry_every = 0;  // 0: never
};

// Texts drawn while training, for people to read; the run's bits are the same without them.
struct SamplesConfig {
  std::vector<std::string> prompts;  // one text each; "" begins a document; none: no samples
  std::int64_t every = 0;            // steps; 0: with each evaluation. The last step always.
  std::int64_t tokens = 100;         // at most
  double temperature = 1;            // 0: greedy
  std::int64_t top_k = 0;            // 0: all
  double top_p = 1;
};

struct TrainConfig {
  ModelConfig model;
  DataConfig data;
  std::string recipe = "none";
  config::Component optimizer{.type = "adamw"};
  TrainerConfig trainer;
  std::filesystem::path tune;  // a table of plans (plan_table.h); "": none
  SamplesConfig samples;
};

template <class V>
void visit(V& v, ModelConfig& c) {
  v("type", c.type);
  v("size", c.size);
  v("layers", c.layers, config::at_least(1));
  v("heads", c.heads, config::at_least(1));
  v("width", c.width, config::at_least(1));
  v("context", c.context, config::at_least(1));
  v("vocab", c.vocab, config::at_least(0));
  v("dropout", c.dropout, config::half_open(0.0, 1.0));
  v("embedding_dropout", c.embedding_dropout, config::half_open(0.0, 1.0));
  v("attention_dropout", c.attention_dropout, config::half_open(0.0, 1.0));
  v("residual_dropout", c.residual_dropout, config::half_open(0.0, 1.0));
  v("tie_embeddings", c.tie_embeddings);
  v("checkpoint_blocks", c.checkpoint_blocks);
  v("recompute", c.recompute);
  v("recompute_blocks", c.recompute_blocks, config::at_least(0));
  v("token_chunk", c.token_chunk, config::at_least(0));
  v("gelu", c.gelu);
  v("norm_epsilon", c.norm_epsilon, config::above(0.0));
  v("init_std", c.init_std, config::at_least(0.0));
  v("compute", c.compute);
  v.check(recompute_of(c.recompute).has_value(), "recompute",
          "got \"{}\" expected \"none\", \"inputs\", \"mlp\", \"products\" or \"sums\"",
          c.recompute);
  v.check(
      !c.recompute_blocks ||
          recompute_of(c.recompute).value_or(Recompute::Sums) > Recompute::Inputs,
      "recompute_blocks",
      "got {} with recompute \"{}\", expected \"mlp\", \"products\" or \"sums\": they alone are "
      "by blocks",
      c.recompute_blocks.value_or(0), c.recompute);
  v.check(c.type == "gpt2", "type", "got \"{}\" expected \"gpt2\"", c.type);
  v.check(c.gelu == "tanh" || c.gelu == "erf", "gelu", "got \"{}\" expected \"tanh\" or \"erf\"",
          c.gelu);
  v.check(c.compute == "f32" || c.compute == "bf16", "compute",
          "got \"{}\" expected \"f32\" or \"bf16\"", c.compute);
}

template <class V>
void visit(V& v, DataConfig& c) {
  v.required("path", c.path);
  v("sequence", c.sequence, config::at_least(0));
}

template <class V>
void visit(V& v, TrainerConfig& c) {
  v("steps", c.steps, config::at_least(1));
  v("batch", c.batch, config::at_least(1));
  v("accumulation", c.accumulation, config::at_least(1));
  constexpr std::int64_t kMost = std::int64_t{1} << 24;  // what a step holds is counted in 64 bits
  v.check(c.batch <= kMost, "batch", "got {} expected at most {}", c.batch, kMost);
  v.check(c.accumulation <= kMost, "accumulation", "got {} expected at most {}", c.accumulation,
          kMost);
  v("lr", c.lr, config::above(0.0));
  v("lr_floor", c.lr_floor, config::between(0.0, 1.0));
  v("schedule", c.schedule);
  v("warmup", c.warmup, config::at_least(0));
  v("decay", c.decay, config::at_least(0));
  v("weight_decay", c.weight_decay, config::at_least(0.0));
  v("clip", c.clip, config::at_least(0.0));
  v("clip_parameter", c.clip_parameter, config::at_least(0.0));
  v("update", c.update);
  v("keep_encodings", c.keep_encodings);
  v("seed", c.seed);
  v("on_not_finite", c.on_not_finite);
  v("eval_every", c.eval_every, config::at_least(0));
  v("eval_batches", c.eval_batches, config::at_least(0));
  v("checkpoint_every", c.checkpoint_every, config::at_least(0));
  v("keep", c.keep, config::at_least(0));
  v("log_every", c.log_every, config::at_least(1));
  v("telemetry_every", c.telemetry_every, config::at_least(0));
  const bool at_end = c.update == UpdateTime::AtEnd;
  v.check(at_end || c.clip == 0, "clip",
          "got {} expected 0 with update \"in_backward\", which never has all gradients at once; "
          "set trainer.clip=0, and trainer.clip_parameter to clip each by its own norm",
          c.clip);
  v.check(at_end || c.accumulation == 1, "accumulation",
          "got {} expected 1 with update \"in_backward\", which keeps no gradients to add to",
          c.accumulation);
  v.check(!at_end || c.clip_parameter == 0, "clip_parameter",
          "got {} expected 0 unless update is \"in_backward\"; trainer.clip clips all together",
          c.clip_parameter);
  v.check(!at_end || !c.keep_encodings, "keep_encodings",
          "got {} expected false unless update is \"in_backward\"; else they are kept anyway",
          c.keep_encodings);
}

template <class V>
void visit(V& v, SamplesConfig& c) {
  v("prompts", c.prompts);
  v("every", c.every, config::at_least(0));
  v("tokens", c.tokens, config::at_least(1));
  v("temperature", c.temperature, config::between(0.0, 1000.0));
  v("top_k", c.top_k, config::at_least(0));
  v("top_p", c.top_p, config::between(0.0, 1.0));
}

template <class V>
void visit(V& v, TrainConfig& c) {
  v("model", c.model);
  v.required("data", c.data);
  v("recipe", c.recipe);
  v("optimizer", c.optimizer);
  v("trainer", c.trainer);
  v("tune", c.tune);
  v("samples", c.samples);
}

// Reads and checks everything that needs no data: recipe and optimizer words, sizes, the schedule.
// Recipe and optimizer come back in their resolved form; each layer pattern matches a layer.
TrainConfig read_config(const Json& json);
// The same of what a run or checkpoint recorded, also before keys were given up: what they chose
// then (how many logits exist at a time) is chosen anew, and layer patterns may match nothing.
TrainConfig read_recorded_config(Json json);
Json write_config(const TrainConfig& config);
Schedule schedule_of(const TrainerConfig& config);
Gpt2Config gpt2_of(const ModelConfig& config, std::int64_t dataset_vocab);

}  // namespace nibble::train
