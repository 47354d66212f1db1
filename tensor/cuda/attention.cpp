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

#ifdef NIBBLE_HAS_CUDNN
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
  if (takes_cudnn_attention(problem_of({&q, &k, &v, &out}, q, k, options), AttentionPass::Forward))
    return cudnn_attention(out, lse, q, k, v, options);
#endif
  own_attention(out, lse, q, k, v, options);
}

void attention_backward(Tensor& dq, Tensor& dk, Tensor& dv, const Tensor& dout, const Tensor& q,
                        const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                        const AttentionOptions& options) {
#ifdef NIBBLE_HAS_CUDNN
  if (takes_cudnn_attention(problem_of({&q, &k, &v, &out, &dout, &dq, &dk, &dv}, q, k, options),
                            AttentionPass::Backward))
    return cudnn_attention_backward(dq, dk, dv, dout, q, k, v, out, lse, options);
#endif
  own_attention_backward(dq, dk, dv, dout, q, k, v, out, lse, options);
}

}  // namespace nibble::cuda
