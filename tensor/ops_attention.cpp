#include "tensor/op_checks.h"
#include "tensor/operation_count.h"
#include "tensor/ops.h"

namespace nibble::ops {
namespace {

Tensor with_unit_stride(const Tensor& x) {
  return x.strides()[-1] == 1 || x.size(-1) == 1 ? x : contiguous(x);
}

}  // namespace

AttentionResult attention(const Tensor& q, const Tensor& k, const Tensor& v,
                          const AttentionOptions& options) {
  constexpr const char* kOp = "attention";
  check_float(kOp, q);
  check_same_kind(kOp, q, k);
  check_same_kind(kOp, q, v);
  NIBBLE_CHECK(q.rank() == 4 && k.rank() == 4 && k.shape() == v.shape(), kOp,
               "got q {}, k {} and v {}, expected [B, T, H, D] and twice [B, S, Hkv, D]", q.shape(),
               k.shape(), v.shape());
  NIBBLE_CHECK(q.size(0) == k.size(0) && q.size(3) == k.size(3), kOp,
               "batch or head width differ: got q {} and k {}", q.shape(), k.shape());
  NIBBLE_CHECK(k.size(2) > 0 && q.size(2) % k.size(2) == 0, kOp,
               "got {} query heads for {} key heads, expected a multiple", q.size(2), k.size(2));
  NIBBLE_CHECK(q.size(3) > 0, kOp, "got q {}, expected a positive head width", q.shape());
  NIBBLE_CHECK(options.dropout >= 0 && options.dropout < 1, kOp, "got dropout {}, expected [0, 1)",
               options.dropout);
  const DType stats = q.dtype() == DType::F64 ? DType::F64 : DType::F32;
  AttentionResult r{Tensor::empty(q.shape(), q.dtype(), q.device()),
                    Tensor::empty({q.size(0), q.size(2), q.size(1)}, stats, q.device())};
  count_attention(2, q.shape(), k.size(1), options.causal);
  if (q.numel() > 0)
    NIBBLE_DISPATCH(q.device(), attention(r.out, r.lse, with_unit_stride(q), with_unit_stride(k),
                                          with_unit_stride(v), options));
  return r;
}

}  // namespace nibble::ops
