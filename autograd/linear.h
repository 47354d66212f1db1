// The recipe-driven linear layer and the fused classifier.
#pragma once

#include <optional>

#include "autograd/tape.h"
#include "quant/recipe.h"

namespace nibble {

// y[..., N] = x[..., K]·Wᵀ + b under a recipe (quant/recipe.h names the three products). weight [N,
// K]; bias [N] or null, added in high precision; its gradient is the column sum of the unencoded
// dy. Gradients pass straight through the encodings (a CustomQuantizer may bring its own).
Var linear(const Var& x, Parameter& weight, Parameter* bias, const LinearRecipe& recipe);

// What linear() under this recipe wants of its x, asked in the scope of its module before x is
// made. Nothing where it reads the values, where no tape is recording, and where telemetry, an
// observer or a search for not-finite values looks at them.
std::optional<Wanted> wanted_of_input(const Parameter& weight, const LinearRecipe& recipe);

struct ClassifierOptions {
  // Rows of logits that exist at a time; 0: the largest power of two that makes 2^28 logits at
  // most, but 256 at least.
  std::int64_t token_chunk = 0;
};
// Mean cross-entropy of softmax(x·Wᵀ) against targets, without ever holding all logits: lm_head,
// the loss, dgrad and wgrad run chunk by chunk over the tokens. All of it happens in the forward
// pass, for only the loss's own gradient is unknown there; backward multiplies by it. x [..., C];
// weight [V, C]; targets [...] I32, −1 = ignored. Returns a scalar in F32 (F64 for F64 inputs).
// Errors: shapes, a target outside [−1, V), chunks that cut tiles of scales over tokens.
Var linear_cross_entropy(const Var& x, Parameter& weight, const Tensor& targets,
                         const LinearRecipe& recipe, const ClassifierOptions& options = {});

// Whether it encodes dlogits = p − onehot with 0 in each token's target and adds the terms of
// these, (p − 1) · ŵ[target] and (p − 1) · x̂, to dx and dW in floats: of fprop's operands, of w and
// x themselves where dgrad and wgrad read these.
bool takes_targets_out(const LinearRecipe& recipe);

// The losses themselves, one a row, 0 where ignored; nothing is recorded. For evaluation.
Tensor classifier_losses(const Tensor& x, Parameter& weight, const Tensor& targets,
                         const LinearRecipe& recipe, const ClassifierOptions& options = {});

// What linear_cross_entropy wants of x: both encodings, since it makes dW in its forward pass.
std::optional<Wanted> wanted_of_classifier_input(const Parameter& weight, LinearRecipe recipe);

}  // namespace nibble
