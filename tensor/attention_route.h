// Which kernel serves a case of attention, and why: a function of the case and the device in every
// build, so that it can be asked on a machine without that device.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tensor/kernels.h"

namespace nibble {

enum class AttentionPass : std::uint8_t { Forward, Backward };

// All that the choice depends on: two calls that agree here run the same kernels.
struct AttentionProblem {
  DType dtype = DType::BF16;
  std::int64_t batch = 0, queries = 0, keys = 0, heads = 0, key_heads = 0, width = 0;
  bool causal = true;
  double dropout = 0;
  bool aligned = true;  // every row of every operand starts at a multiple of 16 bytes

  AttentionProblem() = default;
  // Of operands as the kernels get them: q [B, T, H, D] and k [B, S, Hkv, D]; assumed aligned.
  AttentionProblem(const Tensor& q, const Tensor& k, const AttentionOptions& options);
};

struct AttentionRoute {
  std::string name;    // "cudnn", "wgmma bf16", "mma bf16", "fma f32"; "cpu" and a dtype
  std::string reason;  // a sentence
  bool operator==(const AttentionRoute&) const = default;
};
// Cuda is a GPU of compute capability 9.0, there or not, with cuDNN where this build has it.
AttentionRoute attention_route(const AttentionProblem& problem, AttentionPass pass, Device device);

// Head width up to which the library's own kernels run on warpgroup products.
inline constexpr std::int64_t kMaxWgmmaWidth = 128;
// Whether the library's own kernels are the faster, where cuDNN can serve too.
bool is_own_attention_faster(const AttentionProblem& problem, AttentionPass pass);
// Why cuDNN cannot serve the case; "" where it can. Whether it does.
std::string_view cudnn_attention_refusal(const AttentionProblem& problem, AttentionPass pass);
bool takes_cudnn_attention(const AttentionProblem& problem, AttentionPass pass);

}  // namespace nibble
