#include <limits>

#include "tensor/op_checks.h"
#include "tensor/ops.h"

namespace nibble::ops {
namespace {

constexpr const char* kOp = "cross_entropy";

DType statistics_dtype(DType logits) { return logits == DType::F64 ? DType::F64 : DType::F32; }

void check_chunk(const Tensor& logits, const Tensor& targets, const Tensor& statistic) {
  check_float(kOp, logits);
  check_index(kOp, targets, logits);
  NIBBLE_CHECK(logits.rank() == 2 && logits.is_contiguous(), kOp,
               "got logits {}, expected a contiguous matrix", describe(logits));
  NIBBLE_CHECK(targets.numel() == logits.size(0) && targets.is_contiguous(), kOp,
               "got targets {} for logits {}, expected one a row", describe(targets),
               describe(logits));
  NIBBLE_CHECK(statistic.numel() == logits.size(0) &&
                   statistic.dtype() == statistics_dtype(logits.dtype()) &&
                   statistic.device() == logits.device(),
               kOp, "got running values {} for logits {}, expected one f32 (f64 for f64) a row",
               describe(statistic), describe(logits));
}

}  // namespace

void check_targets(const Tensor& targets, std::int64_t classes) {
  NIBBLE_CHECK(targets.dtype() == DType::I32, kOp, "got targets {}, expected dtype i32",
               describe(targets));
  if (targets.numel() > 0)
    NIBBLE_DISPATCH(targets.device(), check_targets(ops::contiguous(targets), classes));
}

CrossEntropyState cross_entropy_begin(std::int64_t rows, DType dtype, Device device) {
  const DType stats = statistics_dtype(dtype);
  return {Tensor::full({rows}, -std::numeric_limits<double>::infinity(), stats, device),
          Tensor::zeros({rows}, stats, device), Tensor::zeros({rows}, stats, device)};
}

void cross_entropy_update(CrossEntropyState& state, const Tensor& logits, const Tensor& targets,
                          std::int64_t begin) {
  check_chunk(logits, targets, state.max);
  if (logits.numel() > 0)
    NIBBLE_DISPATCH(logits.device(), cross_entropy_update(state.max, state.sum, state.target_logit,
                                                          logits, targets, begin));
}

Tensor cross_entropy_lse(const CrossEntropyState& state) { return add(state.max, log(state.sum)); }

void cross_entropy_backward(Tensor& dlogits, const Tensor& logits, const Tensor& targets,
                            const Tensor& lse, const Tensor& scale, std::int64_t begin) {
  check_chunk(logits, targets, lse);
  check_same_kind(kOp, dlogits, logits);
  check_same_shape(kOp, dlogits, logits);
  check_in_place(kOp, dlogits);
  NIBBLE_CHECK(scale.numel() == 1 && scale.device() == logits.device(), kOp,
               "got scale {}, expected one element on {}", describe(scale), logits.device());
  if (logits.numel() > 0)
    NIBBLE_DISPATCH(logits.device(),
                    cross_entropy_backward(dlogits, logits, targets, lse, scale, begin));
  dlogits.bump_version();
}

}  // namespace nibble::ops
