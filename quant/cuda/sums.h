// Ranges that come from sums over tiles.
#pragma once

#include "quant/spec.h"
#include "tensor/tensor.h"

namespace nibble::cuda {

// Calibration AbsMean.
void mean_ranges(Tensor& ranges, const Tensor& x, const QuantSpec& spec);
// Calibration Mse: `ranges` holds the largest magnitudes; each becomes the best candidate.
void search_ranges(Tensor& ranges, const Tensor& x, const QuantSpec& spec);

}  // namespace nibble::cuda
