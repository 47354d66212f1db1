// Encoding of the operands of a linear layer's products.
#pragma once

#include <string_view>
#include <utility>

#include "autograd/parameter.h"
#include "quant/recipe.h"

namespace nibble {

// One operand of one product in its [outer, contraction] orientation. `x` is a matrix as it was
// produced; `transposed`: the product wants xᵀ. Dense when the encoding is empty or the product is
// Simulated, codes when it is Real. `role` ("fprop.lhs") labels telemetry of the module at work.
Value encode_operand(const Tensor& x, const Encoding& encoding, Mode mode, const RngKey& key,
                     bool transposed, std::string_view role);

// Both encodings of a gradient that Real products want, of dy and of dyᵀ.
std::pair<Value, Value> encode_gradient(const Tensor& dy, const Encoding& by_row,
                                        const Encoding& transposed, const RngKey& key);

// The same as encode_operand for a weight, whose codes are cached until its next update. `dtype`:
// of the activations.
Value encode_weight(Parameter& weight, const Encoding& encoding, Mode mode, const RngKey& key,
                    bool transposed, DType dtype, std::string_view role);

// The right operands of dgrad, ŵᵀ [K, N], and of wgrad, x̂ᵀ [K, M] from x [M, K], with the forward's
// codes where the recipe reuses them. `w_key`, `x_key`: those of the forward.
Value encode_dgrad_weight(Parameter& weight, const LinearRecipe& recipe, const RngKey& w_key,
                          DType dtype);
Value encode_wgrad_input(const Tensor& x, const LinearRecipe& recipe, const RngKey& x_key);

}  // namespace nibble
