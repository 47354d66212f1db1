// Encoding of the operands of a linear layer's products.
#pragma once

#include <string_view>

#include "autograd/parameter.h"
#include "quant/recipe.h"

namespace nibble {

// One operand of one product in its [outer, contraction] orientation. `x` is a matrix as it was
// produced; `transposed`: the product wants xᵀ. Dense when the encoding is empty or the product is
// Simulated, codes when it is Real. `role` ("fprop.lhs") labels telemetry of the module at work.
Value encode_operand(const Tensor& x, const Encoding& encoding, Mode mode, const RngKey& key,
                     bool transposed, std::string_view role);

// The same for a weight, whose codes are cached until its next update. `dtype`: of the activations.
Value encode_weight(Parameter& weight, const Encoding& encoding, Mode mode, const RngKey& key,
                    bool transposed, DType dtype, std::string_view role);

}  // namespace nibble
