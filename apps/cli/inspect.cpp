// nibble inspect: tells a configuration from a run, a checkpoint or another file of tensors.
#include "apps/cli/inspect.h"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <memory>

#include "apps/cli/commands.h"
#include "apps/cli/inspect_config.h"
#include "apps/cli/memory_fit.h"
#include "apps/train/checkpoints.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string path;
  std::vector<std::string> overrides;
  std::string device = "cpu", memory;
  std::vector<std::pair<std::string, std::string>> dumps;  // name, file
  bool all = false, stats = false, json = false;
};

// What a path that names a file or folder of tensors stands for; empty for a configuration.
fs::path tensors_of(const fs::path& path) {
  if (fs::is_directory(path)) {
    const fs::path inner = path / "checkpoints";
    const auto found = train::list_checkpoints(fs::is_directory(inner) ? inner : path);
    NIBBLE_CHECK(!found.empty(), "inspect",
                 "{} is no run: it holds no checkpoint; expected a configuration, a run, a "
                 "checkpoint or a safetensors file",
                 path.string());
    return found.back().path;
  }
  return path.extension() == ".safetensors" ? path : fs::path();
}

int run_inspect(const Options& o) {
  const fs::path tensors = tensors_of(o.path);
  if (!tensors.empty()) {
    NIBBLE_CHECK(fs::is_regular_file(tensors), "inspect", "{} is not a file", tensors.string());
    NIBBLE_CHECK(o.overrides.empty() && o.memory.empty() && !o.all, "inspect",
                 "--set, --memory and --all are for a configuration: got {}", tensors.string());
    return o.dumps.empty() ? inspect_file(tensors, o.stats, o.json)
                           : dump_tensors(tensors, o.dumps);
  }
  NIBBLE_CHECK(!o.stats && o.dumps.empty(), "inspect",
               "{} is for a file of tensors: got the configuration {}",
               o.stats ? "--stats" : "--dump", o.path);
  return inspect_config({.files = config::split_files(o.path),
                         .overrides = o.overrides,
                         .device = parse_device(o.device),
                         .memory = o.memory.empty() ? 0 : parse_bytes("--memory", o.memory),
                         .all = o.all,
                         .json = o.json});
}

}  // namespace

void add_inspect(CommandLine& line) {
  auto o = std::make_shared<Options>();
  CLI::App* c = line.app.add_subcommand(
      "inspect", "Show what a configuration means, or what a run, checkpoint or file holds");
  c->add_option("what", o->path, "CONFIG[,CONFIG…], a run's folder, or FILE.safetensors")
      ->required();
  c->add_option("--set", o->overrides, "As for train: one value on top; may be repeated")
      ->take_all()
      ->expected(1);
  c->add_option("--device", o->device, "Whose kernels to name: cpu or cuda, present or not")
      ->capture_default_str();
  c->add_option("--memory", o->memory,
                "Say what fits into this much, e.g. 24GiB; else the device's, or an H200's");
  c->add_flag("--all", o->all, "Each parameter and layer, not each block's kind");
  auto* stats = c->add_flag("--stats", o->stats, "Statistics and a histogram of each tensor");
  auto* json = c->add_flag("--json", o->json, "For machines");
  c->add_option("--dump", o->dumps,
                "Write a tensor as .npy: a parameter or state (wte.weight/m) decoded to f32, or a "
                "stored tensor (wte.weight/m.codes, wte.weight/scales) as it lies; may be repeated")
      ->type_name("NAME FILE.npy")
      ->excludes(stats)
      ->excludes(json);
  c->callback([o, &line] { line.action = [o] { return run_inspect(*o); }; });
}

}  // namespace nibble::cli
