// nibble export: a checkpoint to a folder that transformers loads.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <cstdio>
#include <memory>

#include "apps/cli/commands.h"
#include "apps/cli/hf_gpt2.h"
#include "apps/cli/loaded_model.h"
#include "data/hf_tokenizer.h"
#include "data/output_folder.h"
#include "tensor/atomic_file.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;
constexpr const char* kOp = "export";

struct Options {
  std::string checkpoint, output, data;
};

// As transformers holds them: its names and layouts, F32, without rows that are no token.
NamedTensors tensors_of(const LoadedModel& loaded) {
  NamedTensors tensors;
  for (Parameter* p : parameters(*loaded.model)) {
    Tensor value = p->dense(DType::F32);
    if (p->name == "wte.weight" || p->name == "lm_head.weight")
      value = value.slice(0, 0, loaded.vocab);
    tensors.emplace_back(hf_name(p->name), hf_transposed(p->name) ? value.t().clone() : value);
  }
  return tensors;
}

Json config_of(const LoadedModel& loaded, const Tokenizer& tokenizer) {
  const Gpt2Config c = train::gpt2_of(loaded.config.model, loaded.vocab);
  bool tied = true;  // the recipe has the last word, so the model is asked
  for (const Parameter* p : parameters(*loaded.model)) tied &= p->name != "lm_head.weight";
  const Json end = tokenizer.end_of_text() == kNoToken ? Json() : Json(tokenizer.end_of_text());
  return {{"architectures", {"GPT2LMHeadModel"}},
          {"model_type", "gpt2"},
          {"vocab_size", loaded.vocab},
          {"n_positions", c.context},
          {"n_ctx", c.context},
          {"n_embd", c.width},
          {"n_layer", c.layers},
          {"n_head", c.heads},
          {"n_inner", nullptr},
          {"activation_function", c.gelu == ops::Gelu::Erf ? "gelu" : "gelu_new"},
          {"layer_norm_epsilon", c.norm_epsilon},
          {"initializer_range", c.init_std},
          {"embd_pdrop", c.embedding_dropout},
          {"attn_pdrop", c.attention_dropout},
          {"resid_pdrop", c.residual_dropout},
          {"tie_word_embeddings", tied},
          {"bos_token_id", end},
          {"eos_token_id", end},
          {"torch_dtype", "float32"}};
}

int export_folder(const Options& o) {
  check_output_folder(o.output, kOp);
  const LoadedModel loaded = LoadedModel::open(o.checkpoint, kCpu);
  const std::unique_ptr<Tokenizer> tokenizer = loaded.tokenizer(o.data);
  const NamedTensors tensors = tensors_of(loaded);
  OutputFolder folder(o.output, kOp);
  const fs::path out = o.output;
  if (tokenizer->name() == "unknown")
    fmt::print(stderr, "nibble: warning: the model's tokenizer is not known: none is written\n");
  else
    write_hf_tokenizer(out, *tokenizer);
  write_safetensors(out / kHfWeightsFile, tensors, {{"format", "pt"}});
  // Last: a folder without it is no model.
  write_file_atomically(out / kHfConfigFile, config_of(loaded, *tokenizer).dump(2) + "\n", kOp);
  folder.keep();
  const std::int64_t padding = loaded.model->vocab() - loaded.vocab;
  fmt::print("{}: step {} of {}, {} tensors, {} tokens{}\n", o.output, loaded.step,
             loaded.path.string(), tensors.size(), loaded.vocab,
             padding ? fmt::format(" ({} rows of padding left out)", padding) : "");
  return 0;
}

}  // namespace

void add_export(CommandLine& line) {
  auto o = std::make_shared<Options>();
  CLI::App* c = line.app.add_subcommand(
      "export", "Write a checkpoint in Hugging Face's form, as transformers loads it");
  c->add_option("checkpoint", o->checkpoint, "A checkpoint, or a run's folder: its newest one")
      ->required();
  c->add_option("--output", o->output, "The folder, new or empty")->required();
  c->add_option("--data", o->data, "A dataset with the tokenizer; the one trained on unless given");
  c->callback([o, &line] { line.action = [o] { return export_folder(*o); }; });
}

}  // namespace nibble::cli
