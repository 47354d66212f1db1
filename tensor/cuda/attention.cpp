// Which implementation serves a case of attention on a GPU.
#include <initializer_list>

#include "tensor/cuda/attention_routes.h"

namespace nibble::cuda {

bool attention_aligned(const Tensor& x) {
  const std::int64_t per_16_bytes = 16 / bytes_of(x.dtype(), 1);
  if (x.numel() > 0 && reinterpret_cast<std::uintptr_t>(x.raw()) % 16 != 0) return false;
  for (int dim = 0; dim < 3; ++dim)
    if (x.size(dim) > 1 && x.strides()[dim] % per_16_bytes != 0) return false;
  return true;
}

AttentionProblem::AttentionProblem(const Tensor& q, const Tensor& k, const AttentionOptions& o)
    : dtype(q.dtype()),
      batch(q.size(0)),
      queries(q.size(1)),
      keys(k.size(1)),
      heads(q.size(2)),
      key_heads(k.size(2)),
      width(q.size(3)),
      causal(o.causal),
      dropout(o.dropout) {}

namespace {

// Measured beside cuDNN's deterministic backward (attention_bench): the library's own takes 0.74 of
// its time at width 64, 0.94 at 128 under the causal mask, more elsewhere; forward passes are equal
// or slower.
bool is_own_faster(const AttentionProblem& p, AttentionPass pass) {
  if (pass == AttentionPass::kForward || p.dtype != DType::BF16) return false;
  return p.width <= 64 || (p.width == 128 && p.causal);
}
bool takes_cudnn(const AttentionProblem& problem, AttentionPass pass) {
  return cudnn_attention_supports(problem, pass) && !is_own_faster(problem, pass);
}

}  // namespace

std::string_view attention_route(const AttentionProblem& problem, AttentionPass pass) {
  if (takes_cudnn(problem, pass)) return "cudnn";
  if (problem.dtype != DType::BF16) return "fma f32";
  return problem.width <= kMaxWgmmaWidth ? "wgmma bf16" : "mma bf16";
}

#ifndef NIBBLE_HAS_CUDNN
bool cudnn_attention_supports(const AttentionProblem&, AttentionPass) { return false; }
#else
namespace {

AttentionProblem problem_of(std::initializer_list<const Tensor*> operands, const Tensor& q,
                            const Tensor& k, const AttentionOptions& options) {
  AttentionProblem problem(q, k, options);
  for (const Tensor* x : operands) problem.aligned = problem.aligned && attention_aligned(*x);
  return problem;
}

}  // namespace
#endif

void attention(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
               const AttentionOptions& options) {
#ifdef NIBBLE_HAS_CUDNN
  if (takes_cudnn(problem_of({&q, &k, &v, &out}, q, k, options), AttentionPass::kForward))
    return cudnn_attention(out, lse, q, k, v, options);
#endif
  own_attention(out, lse, q, k, v, options);
}

void attention_backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout, const Tensor& q,
                        const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                        const AttentionOptions& options) {
#ifdef NIBBLE_HAS_CUDNN
  if (takes_cudnn(problem_of({&q, &k, &v, &out, &dout, &dq, &dk, &dv}, q, k, options),
                  AttentionPass::kBackward))
    return cudnn_attention_backward(dq, dk, dv, dout, q, k, v, out, lse, options);
#endif
  own_attention_backward(dq, dk, dv, dout, q, k, v, out, lse, options);
}

}  // namespace nibble::cuda
