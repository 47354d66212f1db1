// Causal multi-head attention core, the same in every variant: batched cuBLASLt products around a
// softmax kernel, one sequence at a time. A stand-in for cuDNN's fused kernels, so its time is its
// own class and stays out of the ratios. T = bf16 (scores in f32) or double (everything in f64).
#pragma once

#include <type_traits>

#include "gemm.h"

namespace nibble::spike {

constexpr int kHeadDim = 64;

template <class T>
class Attention {
 public:
  using Score = std::conditional_t<std::is_same_v<T, double>, double, float>;
  Attention(int batch, int heads, int tokens);
  /// out[batch · tokens, heads · 64] from qkv[batch · tokens, 3 · heads · 64].
  void forward(GemmLibrary& gemm, T* out, const T* qkv);
  /// dqkv from dout; recomputes the probabilities.
  void backward(GemmLibrary& gemm, T* dqkv, const T* dout, const T* qkv);

 private:
  void probabilities(GemmLibrary& gemm, const T* qkv);
  int batch_, heads_, tokens_;
  Buffer<Score> scores_;
  Buffer<T> probs_, dscores_;
};

}  // namespace nibble::spike
