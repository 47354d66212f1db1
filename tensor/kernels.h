// The contract between ops and backends: one line a kernel, a CPU and a CUDA half each,
// out-parameters first. Callers (tensor/ops*.cpp) have checked shapes, dtypes and devices and
// allocated the outputs; unless a comment says otherwise tensors are contiguous, floats are F64,
// F32 or BF16 and all of one dtype, and reductions accumulate in f32 (f64 for F64) in a fixed
// order.
#pragma once

#include "tensor/rng.h"
#include "tensor/step_state.h"
#include "tensor/tensor.h"

#define NIBBLE_KERNEL(name, ...) \
  namespace cpu {                \
  void name(__VA_ARGS__);        \
  }                              \
  namespace cuda {               \
  void name(__VA_ARGS__);        \
  }

namespace nibble {

// Any dtypes, any strides: y = x converted (float to integer truncates).
NIBBLE_KERNEL(copy, Tensor& y, const Tensor& x)
NIBBLE_KERNEL(fill, Tensor& y, double value)
// F32. Element i uses 32-bit word i % 4 of Philox block i / 4; normals are Box-Muller pairs.
NIBBLE_KERNEL(random_uniform, Tensor& y, double low, double high, const RngKey& key)
NIBBLE_KERNEL(random_normal, Tensor& y, double mean, double stddev, const RngKey& key)

// Elementwise. Binary inputs are expanded to y's shape and may have any strides; y is contiguous.
NIBBLE_KERNEL(add, Tensor& y, const Tensor& a, const Tensor& b)
NIBBLE_KERNEL(sub, Tensor& y, const Tensor& a, const Tensor& b)
NIBBLE_KERNEL(mul, Tensor& y, const Tensor& a, const Tensor& b)
NIBBLE_KERNEL(div, Tensor& y, const Tensor& a, const Tensor& b)
NIBBLE_KERNEL(maximum, Tensor& y, const Tensor& a, const Tensor& b)
NIBBLE_KERNEL(minimum, Tensor& y, const Tensor& a, const Tensor& b)
NIBBLE_KERNEL(less, Tensor& y /*U8*/, const Tensor& a, const Tensor& b)
NIBBLE_KERNEL(equal, Tensor& y /*U8*/, const Tensor& a, const Tensor& b)
NIBBLE_KERNEL(where, Tensor& y, const Tensor& mask /*U8*/, const Tensor& a, const Tensor& b)
NIBBLE_KERNEL(affine, Tensor& y, const Tensor& x, double scale, double shift)  // scale·x + shift
NIBBLE_KERNEL(axpy, Tensor& y, const Tensor& x, double alpha)  // y += alpha·x; dtypes may differ
// y (+)= factor[0]·x; factor F32 (F64 for F64).
NIBBLE_KERNEL(scale_by, Tensor& y, const Tensor& x, const Tensor& factor, bool accumulate)
NIBBLE_KERNEL(abs, Tensor& y, const Tensor& x)
NIBBLE_KERNEL(sign, Tensor& y, const Tensor& x)
NIBBLE_KERNEL(exp, Tensor& y, const Tensor& x)
NIBBLE_KERNEL(log, Tensor& y, const Tensor& x)
NIBBLE_KERNEL(sqrt, Tensor& y, const Tensor& x)
NIBBLE_KERNEL(rsqrt, Tensor& y, const Tensor& x)
NIBBLE_KERNEL(sin, Tensor& y, const Tensor& x)
NIBBLE_KERNEL(cos, Tensor& y, const Tensor& x)
NIBBLE_KERNEL(tanh, Tensor& y, const Tensor& x)
NIBBLE_KERNEL(sigmoid, Tensor& y, const Tensor& x)
NIBBLE_KERNEL(erf, Tensor& y, const Tensor& x)
NIBBLE_KERNEL(relu, Tensor& y, const Tensor& x)
NIBBLE_KERNEL(clamp, Tensor& y, const Tensor& x, double low, double high)
NIBBLE_KERNEL(pow, Tensor& y, const Tensor& x, double exponent)
NIBBLE_KERNEL(silu, Tensor& y, const Tensor& x)
NIBBLE_KERNEL(silu_backward, Tensor& dx, const Tensor& dy, const Tensor& x)
NIBBLE_KERNEL(gelu_tanh, Tensor& y, const Tensor& x)
NIBBLE_KERNEL(gelu_tanh_backward, Tensor& dx, const Tensor& dy, const Tensor& x)
NIBBLE_KERNEL(gelu_erf, Tensor& y, const Tensor& x)
NIBBLE_KERNEL(gelu_erf_backward, Tensor& dx, const Tensor& dy, const Tensor& x)
// y = x · keep / (1 − p): keep when the element's 16-bit draw ≥ round(p · 65536). Its own backward.
NIBBLE_KERNEL(dropout, Tensor& y, const Tensor& x, double p, const RngKey& key)

// Reductions over the middle of x seen as [outer, n, inner]; y has outer·inner elements.
NIBBLE_KERNEL(sum, Tensor& y, const Tensor& x, std::int64_t outer, std::int64_t n,
              std::int64_t inner)
NIBBLE_KERNEL(max, Tensor& y, const Tensor& x, std::int64_t outer, std::int64_t n,
              std::int64_t inner)
NIBBLE_KERNEL(argmax, Tensor& y /*I32, first of equals*/, const Tensor& x, std::int64_t outer,
              std::int64_t n, std::int64_t inner)
NIBBLE_KERNEL(cumsum, Tensor& y, const Tensor& x, std::int64_t outer, std::int64_t n,
              std::int64_t inner)
NIBBLE_KERNEL(sum_squares, Tensor& y /*F64, 1*/, const Tensor& x, bool accumulate)  // fixed tree
NIBBLE_KERNEL(all_finite, Tensor& y /*U8, 1: 1 when every element is finite*/, const Tensor& x)
// Along the last dimension.
NIBBLE_KERNEL(softmax, Tensor& y, const Tensor& x)
NIBBLE_KERNEL(softmax_backward, Tensor& dx, const Tensor& dy, const Tensor& y)
NIBBLE_KERNEL(log_softmax, Tensor& y, const Tensor& x)
NIBBLE_KERNEL(log_softmax_backward, Tensor& dx, const Tensor& dy, const Tensor& y)

// Rows of a table: y[i, :] = x[index[i], :], and its transpose y[index[i], :] += x[i, :], summed in
// ascending i so that the result is deterministic. Indices are checked: an out-of-range one throws.
NIBBLE_KERNEL(index_select, Tensor& y, const Tensor& x, const Tensor& index /*I32*/)
NIBBLE_KERNEL(index_add, Tensor& y, const Tensor& index /*I32*/, const Tensor& x)
// y[i] = x[i, index[i]], and its transpose into zeroed dx.
NIBBLE_KERNEL(take_along_last, Tensor& y, const Tensor& x, const Tensor& index /*I32*/)
NIBBLE_KERNEL(take_along_last_backward, Tensor& dx, const Tensor& dy, const Tensor& index)
// x[i, index[i]] = 0 where there is such a column.
NIBBLE_KERNEL(zero_along_last, Tensor& x, const Tensor& index /*I32*/)

// c[b] (+)= a[b] · b[b]; [B, M, K] × [B, K, N]; a and b may be transposed or batch-expanded views
// whose inner matrices have one unit stride; c's rows may be strided. c may be wider than a and b
// (F32 accumulating BF16 products); adding to a BF16 c may round the product first. The sum over K
// of an output element does not depend on M or N's tiling by threads.
NIBBLE_KERNEL(matmul, Tensor& c, const Tensor& a, const Tensor& b, bool accumulate)
NIBBLE_KERNEL(add_bias, Tensor& y /*[M, N], in place*/, const Tensor& bias /*[N]*/)
// db[n] (+)= Σ_m dy[m, n]; db may be wider than dy. Rows that are missing count as 0: four rows
// pairwise, from 0 on the fours of 16 rows one after the other, four of those pairwise; from 0 on
// eight of the resulting 64 rows; these bands of 512 one after the other.
NIBBLE_KERNEL(column_sum, Tensor& db /*[N]*/, const Tensor& dy /*[M, N]*/, bool accumulate)

// x, y [M, C]; gamma, beta [C] (beta may be undefined); mean, rstd [M] F32 (F64 for F64).
NIBBLE_KERNEL(layer_norm, Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x,
              const Tensor& gamma, const Tensor& beta, double epsilon)
// dgamma and dbeta are accumulated into (they may be wider; undefined ones are skipped); dx is
// written and may be undefined.
NIBBLE_KERNEL(layer_norm_backward, Tensor& dx, Tensor& dgamma, Tensor& dbeta, const Tensor& dy,
              const Tensor& x, const Tensor& gamma, const Tensor& mean, const Tensor& rstd)
NIBBLE_KERNEL(rms_norm, Tensor& y, Tensor& rstd, const Tensor& x, const Tensor& gamma,
              double epsilon)
NIBBLE_KERNEL(rms_norm_backward, Tensor& dx, Tensor& dgamma, const Tensor& dy, const Tensor& x,
              const Tensor& gamma, const Tensor& rstd)

// Scaled dot-product attention in O(T) memory (online softmax). q [B, T, H, D], k and v [B, S, Hkv,
// D] are views with unit last stride, Hkv divides H; out [B, T, H, D] likewise; lse [B, H, T] F32
// (F64). causal: query t sees keys 0 … t + S − T. Dropout p on the probabilities: element index
// ((b·H + h)·T + t)·S + s of the key's stream.
struct AttentionOptions {
  double scale = 0;  // on q·k; 0 means 1/√D
  bool causal = true;
  double dropout = 0;
  RngKey key;
};
NIBBLE_KERNEL(attention, Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k,
              const Tensor& v, const AttentionOptions& options)
NIBBLE_KERNEL(attention_backward, Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout,
              const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
              const Tensor& lse, const AttentionOptions& options)

// Cross-entropy of the rows of logits [M, V]; targets [M] I32, −1 = ignored. lse = log Σ
// exp(logits); losses = lse − the target's logit, 0 where ignored. Both F32 (F64) [M].
NIBBLE_KERNEL(cross_entropy, Tensor& losses, Tensor& lse, const Tensor& logits,
              const Tensor& targets)
// Every target must be −1 or below `classes`; the first other one is an error (on a GPU: a fault).
NIBBLE_KERNEL(check_targets, const Tensor& targets /*I32*/, std::int64_t classes)
// dlogits = (softmax − onehot) · scale[0] for rows whose target is not −1, 0 elsewhere; scale is a
// one-element tensor. dlogits may be the very tensor `logits`.
NIBBLE_KERNEL(cross_entropy_backward, Tensor& dlogits, const Tensor& logits, const Tensor& targets,
              const Tensor& lse, const Tensor& scale)
// Both: the losses, and logits become their gradient.
NIBBLE_KERNEL(cross_entropy_gradient, Tensor& losses, Tensor& logits, const Tensor& targets,
              const Tensor& scale)

}  // namespace nibble
