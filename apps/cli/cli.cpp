#include "apps/cli/cli.h"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <new>

#include "apps/cli/commands.h"
#include "apps/cli/memory_fit.h"
#include "apps/config/nearest.h"
#include "apps/run/build_info.h"
#include "tensor/check.h"
#include "tensor/storage.h"
#include "tensor/thread_pool.h"

namespace nibble::cli {
namespace {

void add_extensions(const Extensions& extensions) {
  for (const auto& quantizer : extensions.quantizers) recipes::register_quantizer(quantizer);
  for (const CodecPtr& codec : extensions.codecs) register_codec(codec);
  if (extensions.optimizers) extensions.optimizers(train::optimizers());
  for (const auto& [name, recipe] : extensions.recipes) recipes::register_recipe(name, recipe);
}

// One line whatever the message holds: scripts read it.
int report(ExitCode code, std::string message) {
  std::fflush(stdout);
  while (!message.empty() && message.back() == '\n') message.pop_back();
  std::replace(message.begin(), message.end(), '\n', ' ');
  fmt::print(stderr, "nibble: error: {}\n", message);
  return code;
}

// A result that nobody got is an error.
int finish(int code) {
  std::cout.flush();
  NIBBLE_CHECK(std::fflush(stdout) == 0 && std::cout, "output",
               "cannot write to the standard output");
  return code;
}

// Of what is no tensor: files, batches, tables.
std::string no_memory_text() {
  std::string text = "allocate: out of memory on cpu";
  if (const auto memory = host_memory())
    text += fmt::format(": got {} free of {}", size_text(memory->free), size_text(memory->total));
  return text + "; a smaller batch or model needs less (nibble train --dry-run)";
}

std::string version_text() {
  const run::BuildInfo& build = run::build_info();
  return fmt::format("nibble {} (commit {}{}, {}, {})", build.version, build.commit.substr(0, 12),
                     build.dirty ? ", modified" : "", build.compiler, build.build_type);
}

int parse_and_run(int argc, char** argv) {
  CLI::App app(
      "Nibble trains transformers with quantized weights, activations, gradients and "
      "moments.",
      "nibble");
  app.require_subcommand(1);
  app.set_version_flag("--version", version_text(), "Print version and commit, and exit");
  app.footer(
      "Exit codes: 0 ok; 1 error; 2 wrong command line; 3 time limit, 4 stopped by a signal (both "
      "after\nwriting a checkpoint: --resume goes on).");
  CommandLine line{app, {argv, argv + argc}};
  add_tokenize(line);
  add_train(line);
  add_eval(line);
  add_generate(line);
  add_recipes(line);
  add_import(line);
  add_export(line);
  add_compare(line);
  add_report(line);
  add_inspect(line);
  add_tune(line);
  add_bench(line);
  // CLI11 would only say that a subcommand is missing.
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
  if (argc < 2) return report(kUsage, "usage: no command; nibble --help lists them");
  if (argv[1][0] != '-' && std::find(names.begin(), names.end(), argv[1]) == names.end())
    return report(kUsage,
                  fmt::format("usage: unknown command \"{}\"; the nearest known one is \"{}\"; "
                              "nibble --help lists them",
                              argv[1], config::nearest(argv[1], names)));
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {  // --help, --version
    app.exit(asked);
    return finish(kOk);
  } catch (const CLI::ParseError& e) {
    const auto chosen = app.get_subcommands();
    return report(kUsage, fmt::format("usage: {}; nibble {}--help lists what there is", e.what(),
                                      chosen.empty() ? "" : chosen.front()->get_name() + " "));
  }
  return finish(line.action());
}

}  // namespace

void Machinery::add_to(CLI::App& command, bool with_device) {
  if (with_device)
    command.add_option("--device", device, "cpu, cuda or cuda:N")->capture_default_str();
  command.add_option("--threads", threads, "CPU threads; the results do not depend on it")
      ->check(CLI::Range(1, 4096));
}

Device Machinery::apply() const {
  if (threads) set_num_threads(threads);
  const Device chosen = parse_device(device);
  check_available(chosen);
  NIBBLE_CHECK(!chosen.is_meta(), "device", "meta holds no data: got {}, expected cpu or cuda",
               device);
  // For tests, and for a machine that is shared: see README.md.
  if (const char* limit = std::getenv("NIBBLE_MEMORY_LIMIT"); limit && *limit)
    set_memory_limit(chosen, parse_bytes("NIBBLE_MEMORY_LIMIT", limit));
  return chosen;
}

int run(int argc, char** argv, const Extensions& extensions) {
  try {
    add_extensions(extensions);
    return parse_and_run(argc, argv);
  } catch (const std::bad_alloc&) {
    return report(kError, no_memory_text());
  } catch (const std::exception& e) {
    return report(kError, e.what());
  }
}

}  // namespace nibble::cli
