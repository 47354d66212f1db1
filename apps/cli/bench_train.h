// nibble bench train and memory: whole training runs beside other programs' and beside their plans.
#pragma once

#include "apps/cli/commands.h"

namespace nibble::cli {

// "0.70" ms until a step was queued; "(638)" where that is most of a GPU's step: a graph of more
// kernels than the launch queue holds is queued as the GPU works it off, and the host waits in it.
std::string host_text(double host_seconds, double step_seconds, Device device);
inline constexpr const char* kHostWaits =
    "(…): a step of more kernels than the launch queue holds is queued as the GPU works "
    "it off; the host waits in it";

void add_bench_train(CLI::App& bench, CommandLine& line);

}  // namespace nibble::cli
