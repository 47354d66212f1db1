// A model's weights as named tensors: what checkpoints store of it.
#pragma once

#include "nn/module.h"
#include "nn/safetensors.h"

namespace nibble::train {

// The live tensors, by parameter name; one that is stored as codes is NAME/codes and NAME/scales.
// Whoever overwrites them calls bump_version() on the parameters.
NamedTensors weight_tensors(Module& model);

}  // namespace nibble::train
