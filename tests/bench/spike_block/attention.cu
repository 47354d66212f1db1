#include "attention.h"

#include <cmath>

namespace nibble::spike {
namespace {

template <class S>
__device__ S block_sum(S x, S* scratch) {
  for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(~0u, x, d);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  S total = 0;
  for (unsigned w = 0; w < blockDim.x / 32; ++w) total += scratch[w];
  return total;
}

template <class S>
__device__ S block_max(S x, S* scratch) {
  for (int d = 16; d > 0; d /= 2) x = fmax(x, __shfl_xor_sync(~0u, x, d));
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  S top = scratch[0];
  for (unsigned w = 1; w < blockDim.x / 32; ++w) top = fmax(top, scratch[w]);
  return top;
}

template <class S>
__device__ S wide(S x) {
  return x;
}
__device__ float wide(bf16 x) { return __bfloat162float(x); }

/// One block a (head, query): softmax over keys up to the query, zero after it.
template <class T, class S>
__global__ void softmax_kernel(T* probs, const S* scores, int tokens) {
  __shared__ S scratch[8];
  const int query = int(blockIdx.x) % tokens;
  const std::size_t base = std::size_t(blockIdx.x) * tokens;
  S top = -INFINITY;
  for (int k = threadIdx.x; k <= query; k += blockDim.x) top = fmax(top, scores[base + k]);
  top = block_max(top, scratch);
  S sum = 0;
  for (int k = threadIdx.x; k <= query; k += blockDim.x) sum += exp(scores[base + k] - top);
  sum = block_sum(sum, scratch);
  for (int k = threadIdx.x; k < tokens; k += blockDim.x)
    probs[base + k] = T(k <= query ? exp(scores[base + k] - top) / sum : S(0));
}

/// ds = p · (dp − Σ p · dp) · scale, row by row; probabilities past the query are zero.
template <class T, class S>
__global__ void softmax_backward_kernel(T* dscores, const S* dprobs, const T* probs, int tokens,
                                        S scale) {
  __shared__ S scratch[8];
  const std::size_t base = std::size_t(blockIdx.x) * tokens;
  S dot = 0;
  for (int k = threadIdx.x; k < tokens; k += blockDim.x)
    dot += wide(probs[base + k]) * dprobs[base + k];
  dot = block_sum(dot, scratch);
  for (int k = threadIdx.x; k < tokens; k += blockDim.x)
    dscores[base + k] = T(S(wide(probs[base + k])) * (dprobs[base + k] - dot) * scale);
}

constexpr double kScale = 0.125;  // 1 / sqrt(kHeadDim)

}  // namespace

template <class T>
Attention<T>::Attention(int batch, int heads, int tokens)
    : batch_(batch),
      heads_(heads),
      tokens_(tokens),
      scores_(std::size_t(heads) * tokens * tokens),
      probs_(scores_.size()),
      dscores_(scores_.size()) {}

namespace {
// The three product forms, row-major: nt = a[t,d]·b[t,d]ᵀ → [t,t]; nn = s[t,t]·b[t,d]; tn = sᵀ·b.
template <class T, class S>
GemmShape form_nt(int heads, int tokens, int lda, int ldb) {
  GemmShape s{.m = tokens,
              .n = tokens,
              .k = kHeadDim,
              .trans_a = true,
              .lda = ldb,
              .ldb = lda,
              .ldd = tokens,
              .batch = heads,
              .stride_a = kHeadDim,
              .stride_b = kHeadDim,
              .stride_d = 1LL * tokens * tokens};
  s.in = std::is_same_v<T, double> ? CUDA_R_64F : CUDA_R_16BF;
  s.out = std::is_same_v<T, double> ? CUDA_R_64F : CUDA_R_32F;
  return s;
}
template <class T>
GemmShape form_n(int heads, int tokens, int ldb, int ldd, bool transpose_scores) {
  GemmShape s{.m = kHeadDim,
              .n = tokens,
              .k = tokens,
              .trans_b = transpose_scores,
              .lda = ldb,
              .ldb = tokens,
              .ldd = ldd,
              .batch = heads,
              .stride_a = kHeadDim,
              .stride_b = 1LL * tokens * tokens,
              .stride_d = kHeadDim};
  s.in = s.out = std::is_same_v<T, double> ? CUDA_R_64F : CUDA_R_16BF;
  return s;
}
}  // namespace

template <class T>
void Attention<T>::probabilities(GemmLibrary& gemm, const T* qkv) {
  const int c = heads_ * kHeadDim;
  gemm.run(form_nt<T, Score>(heads_, tokens_, 3 * c, 3 * c), qkv + c, qkv, scores_.get(), kScale);
  softmax_kernel<T, Score>
      <<<unsigned(heads_ * tokens_), 256>>>(probs_.get(), scores_.get(), tokens_);
  check(cudaGetLastError());
}

template <class T>
void Attention<T>::forward(GemmLibrary& gemm, T* out, const T* qkv) {
  const int c = heads_ * kHeadDim;
  for (int b = 0; b < batch_; ++b) {
    const T* in = qkv + std::size_t(b) * tokens_ * 3 * c;
    probabilities(gemm, in);
    gemm.run(form_n<T>(heads_, tokens_, 3 * c, c, false), in + 2 * c, probs_.get(),
             out + std::size_t(b) * tokens_ * c);
  }
}

template <class T>
void Attention<T>::backward(GemmLibrary& gemm, T* dqkv, const T* dout, const T* qkv) {
  const int c = heads_ * kHeadDim;
  for (int b = 0; b < batch_; ++b) {
    const T* in = qkv + std::size_t(b) * tokens_ * 3 * c;
    const T* grad = dout + std::size_t(b) * tokens_ * c;
    T* result = dqkv + std::size_t(b) * tokens_ * 3 * c;
    probabilities(gemm, in);
    gemm.run(form_n<T>(heads_, tokens_, c, 3 * c, true), grad, probs_.get(), result + 2 * c);
    gemm.run(form_nt<T, Score>(heads_, tokens_, c, 3 * c), in + 2 * c, grad, scores_.get());
    softmax_backward_kernel<T, Score><<<unsigned(heads_ * tokens_), 256>>>(
        dscores_.get(), scores_.get(), probs_.get(), tokens_, Score(kScale));
    check(cudaGetLastError());
    gemm.run(form_n<T>(heads_, tokens_, 3 * c, 3 * c, false), in + c, dscores_.get(), result);
    gemm.run(form_n<T>(heads_, tokens_, 3 * c, 3 * c, true), in, dscores_.get(), result + c);
  }
}

template class Attention<bf16>;
template class Attention<double>;

}  // namespace nibble::spike
