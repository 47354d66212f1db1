// Encoding of the operands of a linear layer's products.
#pragma once

#include <string_view>

#include "autograd/origin.h"
#include "autograd/parameter.h"
#include "autograd/wanted.h"
#include "quant/recipe.h"

namespace nibble {

// One operand of one product in its [outer, contraction] orientation. `x` is a matrix as it was
// produced; `transposed`: the product wants xᵀ. Dense when the encoding is empty or the product is
// Simulated, codes when it is Real. `role` ("fprop.lhs") labels telemetry of the module at work.
Value encode_operand(const Tensor& x, const Encoding& encoding, Mode mode, const RngKey& key,
                     bool transposed, std::string_view role);

// The codes of a Real product's operand: by past ranges where the spec and the context have them.
QTensor encode_codes(const Tensor& x, const QuantSpec& spec, const RngKey& key, bool transposed,
                     std::string_view role);

// The same as encode_operand for a weight, whose codes are cached until its next update. `dtype`:
// of the activations.
Value encode_weight(Parameter& weight, const Encoding& encoding, Mode mode, const RngKey& key,
                    bool transposed, DType dtype, std::string_view role);

// The right operands of dgrad, ŵᵀ [K, N], and of wgrad, x̂ᵀ [K, M] from x [M, K], with the forward's
// codes where the recipe reuses them. `w_key`, `x_key`: those of the forward.
Value encode_dgrad_weight(Parameter& weight, const LinearRecipe& recipe, const RngKey& w_key,
                          DType dtype);
Value encode_wgrad_input(const Tensor& x, const LinearRecipe& recipe, const RngKey& x_key);

// The operands that are made of x in fprop and in wgrad, from what x was made of.
Value remake_fprop_input(const Origin& x, const LinearRecipe& recipe, const RngKey& x_key);
Value remake_wgrad_input(const Origin& x, const LinearRecipe& recipe, const RngKey& x_key);

// Both encodings of x that a training pass reads, by one pass over it, where a kernel serves.
std::optional<Encoded> encode_input(const Tensor& x, const Parameter& weight,
                                    const LinearRecipe& recipe);
// What both backward products want of dy, if both want codes; bias: whose gradient is dy's sums, or
// null.
std::optional<Wanted> wanted_of_gradient(const LinearRecipe& recipe, const RngKey& key,
                                         Parameter* bias);

// dy [M, N] as the backward products read it. Its column sums, if there is a bias, only where the
// pass that encodes has them on the way (`has_sums`): undefined where they are the bias's gradient
// already.
struct EncodedGradient {
  Value for_dx, for_dw;
  bool has_sums = false;
  Tensor column_sums = {};
};
EncodedGradient encode_gradient(const Tensor& dy, const LinearRecipe& recipe, const RngKey& key,
                                bool for_dx, bool for_dw, Parameter* bias);

// The same of dlogits, the gradient of logits [M, V] (tensor/kernels.h, cross_entropy_gradient), by
// one producer that does not store it, where a kernel serves; it writes `losses` F32 [M]. Unless
// with_target, each row's target counts as 0.
struct EncodedLogits {
  QTensor by_row, by_column;
};
std::optional<EncodedLogits> encode_dlogits(Tensor& losses, const Tensor& logits,
                                            const Tensor& targets, const Tensor& scale,
                                            bool with_target, const Wanted& wanted);

}  // namespace nibble
