// The implementations of attention on a GPU: cuda::attention chooses among them (tensor/
// attention_route.h), tests and benchmarks call them by name. Host code; needs no CUDA header.
#pragma once

#include "tensor/attention_route.h"

namespace nibble::cuda {

// Whether `x` [B, T, H, D] can be read 16 bytes at a time.
bool attention_aligned(const Tensor& x);

// The library's own kernels: any supported case.
void own_attention(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
                   const AttentionOptions& options);
void own_attention_backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout, const Tensor& q,
                            const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                            const AttentionOptions& options);

// cuDNN's: cases that cudnn_attention_refusal does not refuse. Only in builds with
// NIBBLE_HAS_CUDNN.
void cudnn_attention(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
                     const AttentionOptions& options);
void cudnn_attention_backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout,
                              const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                              const Tensor& lse, const AttentionOptions& options);

}  // namespace nibble::cuda
