// The declared support matrix (op_support.h).
#include "op_support.h"

namespace nibble::testing {
namespace {

const std::string kAny = "f64 f32 bf16 i32 i8 u8 e4m3 e5m2";
const std::string kFloat = "f64 f32 bf16";
const std::string kNarrow = "f32 bf16";  // f64 is for the CPU

}  // namespace

const std::vector<Support>& support_matrix() {
  static const std::vector<Support> matrix{
      // Elements are moved, never computed with; the gradient moves them back.
      {"reshape transpose permute slice select squeeze unsqueeze cast", kAny, kAny, kAny, kAny},
      // The gradient sums.
      {"expand concat stack", kAny, kFloat, kAny, kNarrow},
      {"embedding", kFloat, kFloat, kFloat, kNarrow},
      {"add sub mul div maximum minimum operator+ operator- operator* operator/ where affine abs "
       "exp log sqrt rsqrt square sin cos tanh sigmoid erf relu clamp pow silu gelu dropout",
       kFloat, kFloat, kNarrow, kNarrow},
      {"sum mean max min cumsum softmax log_softmax take_along_last matmul self_attention "
       "attention "
       "cross_entropy mse_loss fake_quantize",
       kFloat, kFloat, kNarrow, kNarrow},
      {.functions = "linear checkpoint linear_cross_entropy",
       .values_cpu = kFloat,
       .gradients_cpu = kFloat,
       .values_cuda = kNarrow,
       .gradients_cuda = kNarrow,
       .mixed_parameters = true},
      {.functions = "layer_norm add_layer_norm rms_norm",
       .values_cpu = kFloat,
       .gradients_cpu = kFloat,
       .values_cuda = kNarrow,
       .gradients_cuda = kNarrow,
       .parameters = "dense offset",
       .mixed_parameters = true},
  };
  return matrix;
}

}  // namespace nibble::testing
