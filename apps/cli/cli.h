// The `nibble` command line as a function: a program of one's own links it, adds quantizers,
// codecs, optimizers and recipes, and has every command with them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "apps/train/build.h"
#include "optim/codec.h"
#include "quant/recipe.h"

namespace nibble::cli {

enum ExitCode : int {
  kOk = 0,
  kError = 1,      // one line on stderr says what
  kUsage = 2,      // the command line itself is wrong; likewise
  kTimeLimit = 3,  // --max-minutes is over; a checkpoint was written, --resume goes on
  kStopped = 4,    // SIGTERM or SIGINT; likewise
};

// What a program adds, registered in this order before the command line is read.
struct Extensions {
  // Words for recipes, e.g. --set recipe=none,fprop.rhs=NAME.
  std::vector<std::shared_ptr<const CustomQuantizer>> quantizers{};
  // Words for moments, e.g. --set optimizer.m=NAME.
  std::vector<CodecPtr> codecs{};
  // Adds types for --set optimizer.type=NAME.
  std::function<void(train::OptimizerRegistry&)> optimizers{};
  std::vector<std::pair<std::string, Recipe>> recipes{};
};

// Runs the command that argv asks for. Every error ends here: as the line "nibble: error: …" on
// stderr and an exit code other than 0. Call it once a process.
int run(int argc, char** argv, const Extensions& extensions = {});

}  // namespace nibble::cli
