// Which configuration a resumed run goes on with.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "apps/config/jsonnet.h"
#include "apps/train/train_config.h"

namespace nibble::cli {

// The one recorded in the newest intact checkpoint of the run in `output`. With `files` it must say
// the same, but for what does not touch the steps already made: trainer.steps, eval_every,
// eval_batches, checkpoint_every, keep, log_every and telemetry_every, what is recomputed (save=,
// output= and fuse= of a recipe too: the bits are the same), and the data's place (the trainer
// compares its content); without, `overrides` change those. Throws Error("resume") naming the first
// other key that differs.
train::TrainConfig resume_config(const std::filesystem::path& output, const config::Paths& files,
                                 const std::vector<std::string>& overrides);

}  // namespace nibble::cli
