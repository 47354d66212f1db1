// nibble compare: whether recipes differ, by paired runs; or where two models differ, by layer.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>

#include "apps/cli/commands.h"
#include "apps/cli/compare_layers.h"
#include "apps/report/groups.h"
#include "apps/run/run_folder.h"
#include "apps/train/checkpoints.h"
#include "apps/train/train_config.h"
#include "tensor/check.h"

namespace nibble::cli {
namespace {

struct Options {
  std::vector<std::string> paths;
  bool by_layer = false;
  report::CompareOptions how{.defaults = train::write_config({})};
  LayerOptions layers;
};

// A file, or a folder of checkpoints; a run's folder is a run unless --layers says otherwise.
bool names_checkpoint(const std::string& text) {
  const std::filesystem::path path(text);
  if (path.extension() == ".safetensors") return true;
  return std::filesystem::is_directory(path) && !run::RunFolder::holds_run(path) &&
         !train::list_checkpoints(path).empty();
}

std::string signed_text(double x) { return std::isfinite(x) ? fmt::format("{:+.4f}", x) : "-"; }

void print(const report::Table& table) {
  fmt::print("{}; baseline {}:", table.metric, table.baseline.label);
  for (const auto* run : table.baseline.runs)
    fmt::print("  seed {} {:.4f}", run->seed, run->final_loss());
  fmt::print("\n\n");
  for (std::size_t i = 0; i < table.groups.size(); ++i) {
    const report::Comparison& c = table.comparisons[i];
    fmt::print("{}\n", table.groups[i].label);
    for (const report::Pair& p : c.pairs)
      fmt::print("  seed {:<4} {:.4f}  {}{}\n", p.seed, p.value, signed_text(p.difference()),
                 p.failed ? "  failed" : "");
    fmt::print("  mean {}, one-sided 95 % bounds {} and {}, n = {}\n", signed_text(c.mean),
               signed_text(c.lower), signed_text(c.upper), c.pairs.size());
    fmt::print("  {}{}\n\n", to_string(c.verdict),
               c.verdict == report::Verdict::Within ||
                       c.verdict == report::Verdict::NotDistinguished ||
                       c.verdict == report::Verdict::TooFew
                   ? fmt::format(" (margin {})", table.margin)
                   : "");
  }
  for (const std::string& note : table.notes) fmt::print("note: {}\n", note);
}

Json as_json(const report::Table& table) {
  const auto finite = [](double x) { return std::isfinite(x) ? Json(x) : Json(nullptr); };
  Json out = {{"metric", table.metric},
              {"margin", table.margin},
              {"baseline", table.baseline.label},
              {"groups", Json::array()},
              {"notes", table.notes}};
  for (std::size_t i = 0; i < table.groups.size(); ++i) {
    const report::Comparison& c = table.comparisons[i];
    Json pairs = Json::array();
    for (const report::Pair& p : c.pairs)
      pairs.push_back({{"seed", p.seed},
                       {"baseline", finite(p.baseline)},
                       {"value", finite(p.value)},
                       {"failed", p.failed}});
    out["groups"].push_back({{"label", table.groups[i].label},
                             {"pairs", pairs},
                             {"mean", finite(c.mean)},
                             {"lower", finite(c.lower)},
                             {"upper", finite(c.upper)},
                             {"p_worse", finite(c.p_worse)},
                             {"verdict", to_string(c.verdict)}});
  }
  return out;
}

int compare_finished(const Options& o) {
  NIBBLE_CHECK(o.how.margin > 0 && std::isfinite(o.how.margin), "compare",
               "--margin: got {}, expected a positive number", o.how.margin);
  const std::vector<report::RunRecord> runs = report::read_runs(o.paths);
  const report::Table table = compare_runs(runs, o.how);
  const std::optional<std::string>& json = o.layers.json;
  if (!json || (!json->empty() && *json != "-")) print(table);
  if (json) write_json(*json, as_json(table));
  return 0;
}

// Which of the two it is, and that no option of the other was given.
void choose(Options& o, const std::vector<CLI::Option*>& of_runs,
            const std::vector<CLI::Option*>& of_layers) {
  o.by_layer = o.by_layer || !o.layers.configs.empty() || !o.layers.recipes.empty() ||
               std::ranges::any_of(o.paths, names_checkpoint);
  if (o.paths.empty() && !o.by_layer) throw CLI::RequiredError("a run, checkpoint or --config");
  // The word after --json may be a forgotten input, which must not be overwritten.
  if (const auto& json = o.layers.json; json && !json->empty() && *json != "-")
    if (!json->ends_with(".json"))
      throw CLI::ValidationError("--json", "got " + *json + ", expected a name that ends in .json");
  for (const CLI::Option* option : o.by_layer ? of_runs : of_layers)
    if (option->count() > 0)
      throw CLI::ValidationError(option->get_name(),
                                 o.by_layer ? "is for finished runs: got checkpoints, --config, "
                                              "--recipe or --layers"
                                            : "is for comparing by layer: got runs; --layers takes "
                                              "their newest checkpoints");
}

}  // namespace

void add_compare(CommandLine& line) {
  auto o = std::make_shared<Options>();
  LayerOptions& l = o->layers;
  CLI::App* c = line.app.add_subcommand(
      "compare", "Say by paired runs whether recipes differ, or on one batch where two models do");
  c->footer(
      "compare RUNS                              finished runs: paired bounds and verdicts\n"
      "compare A.safetensors B.safetensors       two checkpoints, layer by layer\n"
      "compare CHECKPOINT --recipe A --recipe B  its weights under two recipes\n"
      "compare --config C --recipe A --recipe B  likewise, from the initial weights or --init's\n"
      "compare --config A --config B             two configurations, likewise\n"
      "By layer, one batch goes forward and backward through both; A is the reference.");
  c->add_option(
      "what", o->paths,
      "Runs or folders of runs; or one or two checkpoints (files, folders of checkpoints)");
  c->add_option_function<std::string>(
       "--json", [o](const std::string& file) { o->layers.json = file; },
       "JSON: to the standard output, or besides the text to FILE.json")
      ->expected(0, 1)
      ->type_name("[FILE.json]");
  std::vector<CLI::Option*> of_runs{
      c->add_option("--baseline", o->how.baseline,
                    "A run of the group to compare with (the unquantized one)")
          ->group("Finished runs"),
      c->add_option("--control", o->how.control, "A run of a group that is known to be worse")
          ->group("Finished runs"),
      c->add_option("--margin", o->how.margin, "What counts as equal, in nats a token")
          ->capture_default_str()
          ->group("Finished runs")};
  std::vector<CLI::Option*> of_layers{
      c->add_option("--data", l.data, "The dataset's folder; A's unless given"),
      c->add_option("--split", l.split, "train or val")
          ->check(CLI::IsMember({"train", "val"}))
          ->capture_default_str(),
      c->add_option("--window", l.window, "The batch's first window of the split, in order")
          ->check(CLI::NonNegativeNumber)
          ->capture_default_str(),
      c->add_option("--batch", l.batch, "Windows of the batch; one side's tensors are kept")
          ->check(CLI::Range(1, 1 << 20))
          ->capture_default_str(),
      c->add_option("--sequence", l.sequence, "Tokens a window; A's unless given")
          ->check(CLI::Range(1, 1 << 30)),
      c->add_option("--seed", l.seed, "Of initial weights and random draws; A's unless given"),
      c->add_option("--threshold", l.threshold_db,
                    "A layer diverges below this signal-to-noise ratio in dB; at 20 the error's "
                    "root mean square is a tenth of the signal's")
          ->capture_default_str(),
      c->add_option("--set", l.overrides, "One value on top of each --config; may be repeated")
          ->take_all()
          ->expected(1),
      c->add_option("--init", l.init, "Weights for --config: a checkpoint or run"),
      c->add_option("--dump", l.dumps,
                    "Write output and gradient of a layer or parameter as .npy files into DIR; may "
                    "be repeated")
          ->type_name("NAME DIR"),
      c->add_option("--device", l.machinery.device, "cpu, cuda or cuda:N")->capture_default_str(),
      c->add_option("--threads", l.machinery.threads,
                    "CPU threads; the results do not depend on it")
          ->check(CLI::Range(1, 4096))};
  for (CLI::Option* option : of_layers) option->group("By layer");
  c->add_option("--config", l.configs, "Files A,B,…: a configuration; once or twice")
      ->take_all()
      ->expected(1)
      ->group("By layer");
  c->add_option("--recipe", l.recipes, "A recipe (nibble recipes lists them); twice")
      ->take_all()
      ->expected(1)
      ->group("By layer");
  c->add_flag("--layers", o->by_layer, "Take runs for their newest checkpoints")->group("By layer");
  c->callback([o, of_runs, of_layers, &line] {
    choose(*o, of_runs, of_layers);
    line.action = [o] {
      if (!o->by_layer) return compare_finished(*o);
      o->layers.checkpoints = o->paths;
      return compare_layers(o->layers);
    };
  });
}

}  // namespace nibble::cli
