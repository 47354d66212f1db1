// Updates of weights that are stored as codes with a scale a row.
#pragma once

#include "optim/kernels.h"

namespace nibble::cuda {

// adam_stored's part of them; passes over the others.
void adam_stored_rows(std::vector<StoredUpdate>& all, const AdamRule& rule, const StepScalars* step,
                      const Tensor& corrections, const RngKey& draws);

}  // namespace nibble::cuda
