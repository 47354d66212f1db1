// What a run would take, before anything is allocated.
#pragma once

#include "apps/train/trainer.h"

namespace nibble::cli {

// Prints memory, disk and, with `timed`, the time of real steps on the device; creates no run.
// Throws Error("dry-run") when memory or disk is short, naming a change that would fit.
int dry_run(const train::TrainOptions& options, bool timed);

}  // namespace nibble::cli
