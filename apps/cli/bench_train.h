// nibble bench train and memory: whole training runs beside other programs' and beside their plans.
#pragma once

#include "apps/cli/commands.h"

namespace nibble::cli {

void add_bench_train(CLI::App& bench, CommandLine& line);

}  // namespace nibble::cli
