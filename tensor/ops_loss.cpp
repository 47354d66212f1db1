#include "tensor/op_checks.h"
#include "tensor/ops.h"

namespace nibble::ops {
namespace {

constexpr const char* kOp = "cross_entropy";

DType statistics_dtype(DType logits) { return logits == DType::F64 ? DType::F64 : DType::F32; }

void check_rows(const Tensor& logits, const Tensor& targets) {
  check_float(kOp, logits);
  check_index(kOp, targets, logits);
  NIBBLE_CHECK(logits.rank() == 2 && logits.is_contiguous(), kOp,
               "got logits {}, expected a contiguous matrix", describe(logits));
  NIBBLE_CHECK(targets.numel() == logits.size(0) && targets.is_contiguous(), kOp,
               "got targets {} for logits {}, expected one a row", describe(targets),
               describe(logits));
}

void check_scale(const Tensor& scale, const Tensor& logits) {
  NIBBLE_CHECK(scale.numel() == 1 && scale.dtype() == statistics_dtype(logits.dtype()) &&
                   scale.device() == logits.device(),
               kOp, "got scale {}, expected one {} on {}", describe(scale),
               statistics_dtype(logits.dtype()), logits.device());
}

Tensor one_a_row(const Tensor& logits) {
  return Tensor::empty({logits.size(0)}, statistics_dtype(logits.dtype()), logits.device());
}

}  // namespace

void check_targets(const Tensor& targets, std::int64_t classes) {
  NIBBLE_CHECK(targets.dtype() == DType::I32, kOp, "got targets {}, expected dtype i32",
               describe(targets));
  if (targets.numel() > 0)
    NIBBLE_DISPATCH(targets.device(), check_targets(ops::contiguous(targets), classes));
}

CrossEntropy cross_entropy(const Tensor& logits, const Tensor& targets) {
  check_rows(logits, targets);
  CrossEntropy y{one_a_row(logits), one_a_row(logits)};
  if (logits.size(0) > 0)
    NIBBLE_DISPATCH(logits.device(), cross_entropy(y.losses, y.lse, logits, targets));
  return y;
}

void cross_entropy_backward(Tensor& dlogits, const Tensor& logits, const Tensor& targets,
                            const Tensor& lse, const Tensor& scale) {
  check_rows(logits, targets);
  check_same_kind(kOp, dlogits, logits);
  check_same_shape(kOp, dlogits, logits);
  check_in_place(kOp, dlogits);
  check_scale(scale, logits);
  NIBBLE_CHECK(lse.numel() == logits.size(0) && lse.dtype() == scale.dtype() &&
                   lse.device() == logits.device(),
               kOp, "got log-sum-exps {} for logits {}, expected one {} a row", describe(lse),
               describe(logits), scale.dtype());
  if (logits.numel() > 0)
    NIBBLE_DISPATCH(logits.device(), cross_entropy_backward(dlogits, logits, targets, lse, scale));
  dlogits.bump_version();
}

Tensor cross_entropy_gradient(Tensor& logits, const Tensor& targets, const Tensor& scale) {
  check_rows(logits, targets);
  check_in_place(kOp, logits);
  check_scale(scale, logits);
  Tensor losses = one_a_row(logits);
  if (logits.size(0) > 0)
    NIBBLE_DISPATCH(logits.device(), cross_entropy_gradient(losses, logits, targets, scale));
  logits.bump_version();
  return losses;
}

}  // namespace nibble::ops
