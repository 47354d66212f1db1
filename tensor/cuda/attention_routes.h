// Which implementation serves a case of attention, and the entry points of each: cuda::attention
// chooses among them, tests and benchmarks call them by name. Host code; needs no CUDA header.
#pragma once

#include <cstdint>
#include <string_view>

#include "tensor/kernels.h"

namespace nibble::cuda {

enum class AttentionPass { kForward, kBackward };

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

// Whether `x` [B, T, H, D] can be read 16 bytes at a time.
bool attention_aligned(const Tensor& x);

// Head width up to which the library's own kernels run on warpgroup products.
inline constexpr std::int64_t kMaxWgmmaWidth = 128;
// False in a build without cuDNN.
bool cudnn_attention_supports(const AttentionProblem& problem, AttentionPass pass);
// "cudnn", "wgmma bf16", "mma bf16" or "fma f32".
std::string_view attention_route(const AttentionProblem& problem, AttentionPass pass);

// The library's own kernels: any supported case.
void own_attention(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
                   const AttentionOptions& options);
void own_attention_backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout, const Tensor& q,
                            const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                            const AttentionOptions& options);

// cuDNN's: cases that cudnn_attention_supports. Only in builds with NIBBLE_HAS_CUDNN.
void cudnn_attention(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
                     const AttentionOptions& options);
void cudnn_attention_backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout,
                              const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                              const Tensor& lse, const AttentionOptions& options);

}  // namespace nibble::cuda
