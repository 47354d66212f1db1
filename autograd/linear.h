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
  std::int64_t vocab_chunk = 8192;  // columns of logits that exist at a time
};
// Mean cross-entropy of softmax(x·Wᵀ) against targets, without ever holding all logits: lm_head's
// forward, the loss, dgrad and wgrad run chunk by chunk over the vocabulary; logits are recomputed
// in backward unless one chunk holds them all. x [..., K]; weight [V, K]; targets [...] I32, −1 =
// ignored. Returns a scalar in F32 (F64 for F64 inputs). Errors: shapes, a target outside [−1, V).
Var linear_cross_entropy(const Var& x, Parameter& weight, const Tensor& targets,
                         const LinearRecipe& recipe, const ClassifierOptions& options = {});

// The losses themselves, one a row, 0 where ignored; nothing is recorded. For evaluation.
Tensor classifier_losses(const Tensor& x, Parameter& weight, const Tensor& targets,
                         const LinearRecipe& recipe, const ClassifierOptions& options = {});

}  // namespace nibble
