// Kernel pairs of the optimizers (tensor/kernels.h has the rules).
#pragma once

#include <optional>
#include <vector>

#include "quant/qtensor.h"
#include "quant/spec.h"
#include "tensor/kernels.h"
#include "tensor/step_state.h"

namespace nibble {

// y (bf16) = x (f32) rounded up or down with the probabilities that make it unbiased: the low 16
// bits of x plus a 16-bit draw of the element decide. Not-finite values are kept.
NIBBLE_KERNEL(stochastic_bf16, Tensor& y, const Tensor& x, const RngKey& key)

// y = the sum of squares of every tensor by itself (sum_squares), added up in the order of `x`.
NIBBLE_KERNEL(sum_squares_of_all, Tensor& y /*F64, 1*/, const std::vector<Tensor>& x)

// What one step has for all parameters lies where the kernels run, so that a recorded step reads
// its own: `step` is StepState::scalars(), f64 tensors hold counters.

// step.loss += loss / divisor in f64; marks the step bad when that is not finite. `loss`: one F32
// or BF16.
NIBBLE_KERNEL(accumulate_loss, StepScalars* step, const Tensor& loss, double divisor)
// step.norm = √squares (F64, one element). Not finite: marks the step bad. Otherwise step.clip
// becomes max_norm / (norm + 1e-6) when max_norm is positive and the norm exceeds it (the 1e-6 is
// torch.nn.utils.clip_grad_norm_'s; it keeps a zero norm from dividing).
NIBBLE_KERNEL(clip_by_norm, StepScalars* step, const Tensor& squares, double max_norm)
// The same for gradients (F32 or BF16; the CPU also F64) of which none knows the others' norms, in
// their order: total += each one's sum of squares, step.norm = √total; clips (F32) are their own
// factors, 1 where max_norm is 0 or not exceeded, and step.clip is the last of them.
NIBBLE_KERNEL(clip_each, StepScalars* step, Tensor& total /*F64, 1*/, Tensor& clips,
              const std::vector<Tensor>& gradients, double max_norm)
// One more of `skipped` when the step is bad; otherwise of `updates`, and `number` (I32) becomes
// that count: the step that the keys of the update's draws read. Either counter may be left out.
NIBBLE_KERNEL(count_update, Tensor& updates, Tensor& skipped, Tensor& number,
              const StepScalars* step)
// power1 ·= β₁, power2 ·= β₂ (F64; running products: no pow that differs between devices), and
// corrections (F32, 2) = 1/(1 − power1), 1/√(1 − power2).
NIBBLE_KERNEL(adam_corrections, Tensor& corrections, Tensor& power1, Tensor& power2, double beta1,
              double beta2)

// What a group's parameters share with every step.
struct GroupRule {
  double lr_scale = 1;      // lr = step.lr · lr_scale
  double weight_decay = 0;  // the weight before the update is multiplied by 1 − lr·weight_decay
};
struct AdamRule {
  float beta1, beta2, epsilon;
};
// g = clip·gradient; w ·= decay; m += (1 − β₁)(g − m); v = β₂·v + (1 − β₂)·g²;
// w −= lr·correction1·m / (√v·correction2 + ε). All f32 but the gradient (any float); tier A.
NIBBLE_KERNEL(adam, Tensor& w, Tensor& m, Tensor& v, const Tensor& gradient, const AdamRule& rule,
              const GroupRule& group, const StepScalars* step, const Tensor& corrections)
// A state as it lies in memory: values (F32 or BF16), or codes and scales of a spec.
struct StoredState {
  Tensor values;  // [rows, cols], or the payload of codes
  Tensor scales;
  std::optional<QuantSpec> spec;  // none: values
  std::uint32_t site = 0;         // of its draws
};
// A parameter of an update as it lies in memory, a matrix [rows, cols].
struct StoredUpdate {
  Tensor weight;  // F32, or BF16: rounded by draws; or the payload of codes with a scale a row
  Tensor weight_scales;
  std::optional<QuantSpec> weight_spec;  // none: values
  std::uint32_t weight_site = 0;
  Tensor gradient;
  std::vector<StoredState> states;
  GroupRule group;
  Tensor clip = {};  // F32, one element: in place of the step's
};
// adam for many parameters, m and v as they are stored: each is decoded to f32, updated and encoded
// from the fresh values (dequantize, adam, quantize_into; stochastic_bf16 for bf16 weights), all
// bits the same; nothing happens in a bad step. Draws are those of `draws` at each one's site. What
// a GPU takes: optim/stored.h.
NIBBLE_KERNEL(adam_stored, std::vector<StoredUpdate>& all, const AdamRule& rule,
              const StepScalars* step, const Tensor& corrections, const RngKey& draws)
// g = clip·gradient; w ·= decay; m = μ·m + g; w −= lr·(nesterov ? g + μ·m : m). m undefined: plain
// SGD.
struct SgdRule {
  float momentum;
  bool nesterov;
};
NIBBLE_KERNEL(sgd, Tensor& w, Tensor& m, const Tensor& gradient, const SgdRule& rule,
              const GroupRule& group, const StepScalars* step)

// Codes of a weight x [rows, cols], or of its transpose, to be written again where they lie.
struct Recoded {
  Tensor x;
  QTensor codes;
  bool transposed = false;
};
// Each has the bits of quantize(x, codes.spec(), {}, transposed). What a GPU takes: encodings.h.
NIBBLE_KERNEL(recode, std::vector<Recoded>& all)
// How a GPU walks a weight: in patches of which each row, column or larger tile of a scale has
// whole rows and columns.
inline constexpr std::int64_t kRecodeRows = 128, kRecodeCols = 64;
// to[i] (BF16) = from[i] (F32), rounded to nearest.
NIBBLE_KERNEL(cast_all, std::vector<Tensor>& to, const std::vector<Tensor>& from)

}  // namespace nibble
