// What all attention kernels share: geometry, views of one head, arguments, launches.
#pragma once

#include "tensor/cuda/attention_routes.h"
#include "tensor/cuda/common.cuh"
#include "tensor/kernels.h"

namespace nibble::cuda {

struct AttentionShape {
  int batch, queries, keys, heads, key_heads, width;
  float scale;
  bool causal;

  // Query t sees the keys below this number, which may be negative.
  __host__ __device__ int seen(int t) const {
    const int last = t + 1 + keys - queries;
    return causal && last < keys ? last : keys;
  }
  __host__ __device__ int key_head(int h) const { return h / (heads / key_heads); }
};

// A [B, T, H, D] view with unit last stride.
template <class T>
struct HeadsView {
  T* data;
  std::int64_t batch_stride, row_stride, head_stride;

  __device__ T* row(int b, int h, int t) const {
    return data + b * batch_stride + h * head_stride + t * row_stride;
  }
};

// Probability dropout: element ((b·H + h)·T + t)·S + s survives when its draw ≥ threshold, and is
// multiplied by `scale`, which is 1 without dropout.
struct AttentionDropout {
  RngKey key;
  std::uint32_t threshold;
  float scale;

  bool active() const { return threshold > 0; }
};
// The operands of one call; `lse` and `stats` as the kernels describe them.
template <class T>
struct ForwardArguments {
  AttentionShape shape;
  HeadsView<const T> q, k, v;
  HeadsView<T> out;
  bool out_aligned;
  float* lse;
  AttentionDropout dropout;
};
template <class T>
struct BackwardArguments {
  AttentionShape shape;
  HeadsView<const T> q, k, v, dout;
  HeadsView<T> dq, dk, dv;
  bool dq_aligned, dk_aligned, dv_aligned;
  const float2* stats;  // [B, H, padded_queries] of log-sum-exp and rowsum(dout ∘ out)
  int padded_queries;   // a multiple of kStatsPadding
  AttentionDropout dropout;
};
inline constexpr int kStatsPadding = 64;

// Shared memory beyond 48 KiB has to be asked for. The request is a property of the kernel on the
// current device; repeating it costs less than remembering it for each.
template <class Arguments>
void launch_tiles(void (*kernel)(Arguments), std::int64_t blocks, int threads, int shared,
                  const Arguments& arguments, int blocks_a_cluster = 1) {
  if (blocks == 0) return;
  NIBBLE_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared);
  config.stream = stream();
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(blocks_a_cluster), 1, 1};
  config.attrs = &cluster;
  config.numAttrs = blocks_a_cluster > 1 ? 1 : 0;
  NIBBLE_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments));
}

// The tensor-core kernels read 16 bytes at a time, some by the copy engine, which steps over every
// element. Where rows do not start at such a multiple, or repeat by a stride of 0, this is a copy
// (the kernels fill up with zeros past the head width), to be kept until they are launched.
Tensor readable_heads(const Tensor& x);
// Of operands that are readable.
ForwardArguments<bfloat16> forward_arguments(Tensor& out, Tensor& lse, const Tensor& q,
                                             const Tensor& k, const Tensor& v,
                                             const AttentionOptions& options);

// The launches of each unit.
void launch_attention(const ForwardArguments<bfloat16>& a);
void launch_attention(const ForwardArguments<float>& a);
void launch_attention_backward(const BackwardArguments<bfloat16>& a);
void launch_attention_backward(const BackwardArguments<float>& a);
// Of bf16 on warpgroup products.
inline bool wgmma_attention_supports(const AttentionShape& s) {
  return s.width <= kMaxWgmmaWidth && s.keys > 0 && s.queries > 0 && s.batch > 0;
}
void launch_attention_wgmma(const ForwardArguments<bfloat16>& a);
void launch_key_gradients_wgmma(const BackwardArguments<bfloat16>& a);
void launch_query_gradients_wgmma(const BackwardArguments<bfloat16>& a);

}  // namespace nibble::cuda
