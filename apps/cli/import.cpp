// nibble import: a GPT-2 in Hugging Face's form to a run with one checkpoint.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <cstdio>
#include <memory>

#include "apps/cli/commands.h"
#include "apps/cli/hf_gpt2.h"
#include "apps/train/build.h"
#include "apps/train/checkpoints.h"
#include "data/dataset.h"
#include "data/output_folder.h"
#include "tensor/atomic_file.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;
constexpr const char* kOp = "import";

struct Options {
  std::string input, output;
};

// Nothing tells when transformers would take which of two different heads.
void check_head(const train::ModelConfig& model, const HfWeights& weights) {
  const bool good = !model.tie_embeddings || !weights.find("lm_head.weight") ||
                    weights.same_bytes("lm_head.weight", "wte.weight");
  NIBBLE_CHECK(good, kOp,
               "'lm_head.weight' differs from 'wte.weight', while {} ties them; hint: "
               "\"tie_word_embeddings\": false keeps both",
               kHfConfigFile);
}

NamedTensors read_weights(const train::TrainConfig& config, const HfWeights& weights) {
  // On the Meta device a model is its names and shapes.
  const auto model = train::build_model(config, config.model.vocab, kMeta);
  const std::vector<Parameter*> all = parameters(*model);
  std::vector<std::string> names;
  for (const Parameter* p : all) names.push_back(hf_name(p->name));
  // A tied head may be stored all the same.
  if (config.model.tie_embeddings && weights.find("lm_head.weight"))
    names.emplace_back("lm_head.weight");
  weights.check_names(names);
  NamedTensors tensors;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Shape shape = all[i]->shape();
    const bool transposed = hf_transposed(all[i]->name);
    const Tensor value = weights.read(names[i], transposed ? Shape{shape[1], shape[0]} : shape);
    tensors.emplace_back(all[i]->name, transposed ? value.t().clone() : value);
  }
  return tensors;
}

int import_folder(const Options& o) {
  check_output_folder(o.output, kOp);
  const train::ModelConfig described = read_hf_config(o.input);
  const HfWeights weights(o.input);
  // Before anything is built: a number in config.json must not decide how long this takes.
  NIBBLE_CHECK(std::cmp_less_equal(*described.layers, weights.size()), kOp,
               "{}: n_layer: got {}, while there are {} tensors in all", kHfConfigFile,
               *described.layers, weights.size());
  check_head(described, weights);
  const train::TrainConfig config = train::read_config(
      {{"model", config::write(described)}, {"data", {{"path", ""}}}, {"recipe", "none"}});
  std::unique_ptr<Tokenizer> tokenizer = read_hf_folder_tokenizer(o.input);
  if (!tokenizer) {
    fmt::print(stderr,
               "nibble: warning: {} holds no tokenizer: the model can be evaluated and trained, "
               "but not asked\n",
               o.input);
    tokenizer = std::make_unique<UnknownTokenizer>(static_cast<std::int32_t>(config.model.vocab));
  }
  // Rows beyond the tokenizer's tokens are padding.
  NIBBLE_CHECK(tokenizer->vocab_size() <= config.model.vocab, kOp,
               "{}: vocab_size: got {}, expected at least the {} tokens of the tokenizer",
               kHfConfigFile, config.model.vocab, tokenizer->vocab_size());
  const NamedTensors tensors = read_weights(config, weights);
  const nlohmann::json state = {{"config", train::write_config(config)},
                                {"vocab", tokenizer->vocab_size()},
                                {"data_hash", ""},
                                {"optimizer", "none"},
                                {"step", 0},
                                {"position", 0}};
  OutputFolder folder(o.output, kOp);
  const fs::path checkpoints = fs::path(o.output) / "checkpoints";
  std::error_code error;
  fs::create_directory(checkpoints, error);
  NIBBLE_CHECK(!error, kOp, "cannot create {}: {}", checkpoints.string(), error.message());
  write_file_atomically(fs::path(o.output) / kTokenizerFile, tokenizer->to_json().dump() + "\n",
                        kOp);
  save_checkpoint(train::checkpoint_path(checkpoints, 0), state, tensors);
  folder.keep();
  std::int64_t count = 0;
  for (const auto& [name, tensor] : tensors) count += tensor.numel();
  fmt::print("{}: GPT-2, {} layers, width {}, {} parameters; tokenizer {}, {} tokens\n", o.output,
             *config.model.layers, *config.model.width, count, tokenizer->name(),
             tokenizer->vocab_size());
  return 0;
}

}  // namespace

void add_import(CommandLine& line) {
  auto o = std::make_shared<Options>();
  CLI::App* c = line.app.add_subcommand(
      "import", "Read a GPT-2 in Hugging Face's form: weights, configuration and tokenizer");
  c->add_option("folder", o->input, "config.json, safetensors, and a tokenizer's files")
      ->required();
  c->add_option("--output", o->output, "The run's folder, new or empty")->required();
  c->callback([o, &line] { line.action = [o] { return import_folder(*o); }; });
}

}  // namespace nibble::cli
