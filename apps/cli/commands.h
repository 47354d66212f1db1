// The commands. Each add_… puts one on the command line; parsing it sets the action to run.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tensor/device.h"

namespace CLI {
class App;  // its header takes longer to compile than most commands
}

namespace nibble::cli {

struct CommandLine {
  CLI::App& app;
  std::vector<std::string> argv;
  std::function<int()> action{};  // its result is the exit code
};

void add_tokenize(CommandLine& line);
void add_train(CommandLine& line);
void add_eval(CommandLine& line);
void add_generate(CommandLine& line);
void add_recipes(CommandLine& line);
void add_import(CommandLine& line);
void add_export(CommandLine& line);
void add_compare(CommandLine& line);
void add_report(CommandLine& line);
void add_inspect(CommandLine& line);
void add_tune(CommandLine& line);
void add_bench(CommandLine& line);

// --device and --threads, which most commands have.
struct Machinery {
  std::string device = "cpu";
  int threads = 0;  // 0: as many as the machine has

  void add_to(CLI::App& command, bool with_device = true);
  // Sets the number of threads; throws when the device is not there.
  Device apply() const;
};

}  // namespace nibble::cli
