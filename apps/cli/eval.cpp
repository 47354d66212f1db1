// nibble eval: the loss of a checkpoint on a split or a text.
#include <fmt/format.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <cmath>
#include <cstdio>
#include <memory>

#include "apps/cli/commands.h"
#include "apps/cli/loaded_model.h"
#include "apps/train/evaluate.h"
#include "apps/train/plan_table.h"
#include "data/tokenize.h"
#include "tensor/atomic_file.h"
#include "tensor/thread_pool.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string checkpoint, data, split = "val", text, tune;
  std::int64_t batch = 8, sequence = 0;
  bool json = false;
  Machinery machinery;
};

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "nibble-eval-XXXXXX").string();
    NIBBLE_CHECK(::mkdtemp(name.data()), "eval", "cannot make a folder {}: {}", name,
                 error_text(errno));
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

train::EvalResult evaluate_text(const LoadedModel& loaded, const Options& o,
                                const train::EvalOptions& options) {
  const TemporaryFolder scratch;
  const fs::path tokens = scratch.path() / "tokens";
  tokenize_files(*loaded.tokenizer(o.data), {.inputs = {o.text},
                                             .val_inputs = {},
                                             .output = tokens,
                                             .threads = num_threads(),
                                             .progress = {}});
  return train::evaluate(*loaded.model, tokens, "train", options);
}

train::EvalResult evaluate_split(const LoadedModel& loaded, const Options& o,
                                 const train::EvalOptions& options) {
  const fs::path folder = loaded.dataset(o.data);
  loaded.check_vocabulary(read_dataset(folder).vocab_size, folder);
  return train::evaluate(*loaded.model, folder, o.split, options);
}

Json to_json(const train::EvalResult::Part& part) {
  Json json = {{"loss", part.loss()},
               {"perplexity", std::exp(part.loss())},
               {"tokens", part.tokens},
               {"text_bytes", part.text_bytes}};
  if (part.text_bytes) json["bits_per_byte"] = part.bits_per_byte();
  return json;
}

void print(const std::string& name, const train::EvalResult::Part& part) {
  const std::string bits =
      part.text_bytes ? fmt::format(", {:.4f} bits a byte", part.bits_per_byte()) : "";
  fmt::print("{}: loss {:.4f} nats a token, perplexity {:.3f}{} ({} tokens, {} bytes)\n", name,
             part.loss(), std::exp(part.loss()), bits, part.tokens, part.text_bytes);
}

int eval(const Options& o) {
  const Device device = o.machinery.apply();
  const train::UsedPlans plans = train::use_plan_table(o.tune, device);
  if (!plans.note.empty()) fmt::print(stderr, "nibble: warning: {}\n", plans.note);
  const LoadedModel loaded = LoadedModel::open(o.checkpoint, device);
  NIBBLE_CHECK(o.sequence <= loaded.model->context(), "eval",
               "--sequence: got {}, expected at most the context of {}", o.sequence,
               loaded.model->context());
  const train::EvalOptions options{.batch = o.batch, .sequence = o.sequence};
  const train::EvalResult result =
      o.text.empty() ? evaluate_split(loaded, o, options) : evaluate_text(loaded, o, options);
  const std::string what = o.text.empty() ? o.split : o.text;
  if (o.json) {
    Json json = to_json(result.all);
    json["checkpoint"] = loaded.path.string();
    json["step"] = loaded.step;
    json["of"] = what;
    json["plan_hash"] = plans.hash;
    for (const auto& [source, part] : result.strata) json["strata"][source] = to_json(part);
    fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
    return 0;
  }
  for (const auto& [source, part] : result.strata) print(what + "/" + source, part);
  print(what, result.all);
  return 0;
}

}  // namespace

void add_eval(CommandLine& line) {
  auto o = std::make_shared<Options>();
  CLI::App* c = line.app.add_subcommand("eval", "Print the loss of a checkpoint");
  c->add_option("--checkpoint", o->checkpoint, "A checkpoint, or a run's folder: its newest one")
      ->required();
  c->add_option("--data", o->data, "The dataset's folder; the one trained on unless given");
  auto* split = c->add_option("--split", o->split, "train or val")
                    ->check(CLI::IsMember({"train", "val"}))
                    ->capture_default_str();
  c->add_option("--text", o->text, "A text file in place of a split")->excludes(split);
  c->add_option("--batch", o->batch, "Windows at a time")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  c->add_option("--sequence", o->sequence, "Tokens a window; the model's context unless given")
      ->check(CLI::Range(1, 1 << 30));
  c->add_option("--tune", o->tune, "The plans of products that nibble tune measured; a file");
  c->add_flag("--json", o->json, "One line of JSON");
  o->machinery.add_to(*c);
  c->callback([o, &line] { line.action = [o] { return eval(*o); }; });
}

}  // namespace nibble::cli
