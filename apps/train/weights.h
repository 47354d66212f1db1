// A model's weights as named tensors: what checkpoints store of it.
#pragma once

#include "apps/train/train_config.h"
#include "nn/checkpoint_file.h"
#include "nn/module.h"

namespace nibble::train {

// The live tensors, by parameter name; one that is stored as codes is NAME/codes and NAME/scales.
// Whoever overwrites them calls bump_version() on the parameters.
NamedTensors weight_tensors(Module& model);
// Whether the checkpoint has every weight of the model that `config` describes over `vocab` tokens,
// in its shape, before memory is taken for it: the file bounds what its state may ask for. Throws
// Error("checkpoint") naming the first that is missing or of another shape.
void check_weights(const TrainConfig& config, std::int64_t vocab, const SafetensorsFile& file);
// A whole number of a run's state; 0 when there is none of that name, or one of another kind.
std::int64_t state_number(const Json& state, const char* key);
// The weights of a checkpoint, whatever each side stores them as; through f32 where the two differ.
// Errors: a parameter that the checkpoint lacks or has in another shape.
void load_weights(Module& model, const Checkpoint& checkpoint);

}  // namespace nibble::train
