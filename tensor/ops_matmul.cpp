#include "tensor/biased_product.h"
#include "tensor/op_checks.h"
#include "tensor/operation_count.h"
#include "tensor/ops.h"

namespace nibble::ops {
namespace {

void check_operands(const Tensor& a, const Tensor& b) {
  NIBBLE_CHECK(a.rank() >= 2 && b.rank() >= 2, "matmul", "got {} and {}, expected matrices",
               describe(a), describe(b));
  check_float("matmul", a);
  check_same_kind("matmul", a, b);
  NIBBLE_CHECK(a.size(-1) == b.size(-2), "matmul",
               "inner extents differ: got {} and {}, expected [..., M, K] and [..., K, N]",
               describe(a), describe(b));
}

bool has_unit_stride(const Tensor& x) {
  return x.strides()[-1] == 1 || x.strides()[-2] == 1 || x.size(-1) == 1 || x.size(-2) == 1;
}

Shape with_matrix(Shape batch, std::int64_t rows, std::int64_t cols) {
  batch.push_back(rows);
  batch.push_back(cols);
  return batch;
}

Shape batch_shape(const Tensor& x) {
  return Shape(std::span(x.shape().begin(), static_cast<std::size_t>(x.rank() - 2)));
}

// x as [B, rows, cols] with its batch dimensions expanded to `batch`; copied only where strides
// cannot say it.
Tensor batched(const Tensor& x, const Shape& batch) {
  const std::int64_t rows = x.size(-2), cols = x.size(-1);
  const Tensor wide = x.expand(with_matrix(batch, rows, cols));
  if (batch.rank() == 0 && has_unit_stride(x)) return wide.unsqueeze(0);
  if (batch.rank() == 1 && has_unit_stride(x)) return wide;
  return contiguous(wide).view({batch.numel(), rows, cols});
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) {
  check_operands(a, b);
  const std::int64_t m = a.size(-2), k = a.size(-1), n = b.size(-1);
  // Rows of a batch that share one right-hand side are one tall matrix.
  if (a.rank() > 2 && b.rank() == 2 && a.is_contiguous())
    return matmul(a.view({batch_shape(a).numel() * m, k}), b)
        .view(with_matrix(batch_shape(a), m, n));
  const Shape batch = broadcast_shapes("matmul", batch_shape(a), batch_shape(b));
  Tensor c = Tensor::empty(with_matrix(batch, m, n), a.dtype(), a.device());
  Tensor flat = c.view({batch.numel(), m, n});
  count_product(OperationKind::FloatProduct, batch.numel() * m, n, k);
  NIBBLE_DISPATCH(c.device(), matmul(flat, batched(a, batch), batched(b, batch), false));
  return c;
}

void matmul_into(Tensor& c, const Tensor& a, const Tensor& b, bool accumulate) {
  check_operands(a, b);
  NIBBLE_CHECK(a.rank() == 2 && b.rank() == 2 && c.shape() == Shape({a.size(0), b.size(1)}),
               "matmul", "got {} into {}, expected [M, K] and [K, N] into [M, N]",
               fmt::format("{} x {}", describe(a), describe(b)), describe(c));
  NIBBLE_CHECK(c.device() == a.device() && (c.dtype() == a.dtype() ||
                                            (c.dtype() == DType::F32 && a.dtype() == DType::BF16)),
               "matmul", "got {} into {}, expected the operands' dtype, or f32 for bf16 ones",
               describe(a), describe(c));
  NIBBLE_CHECK(c.strides()[1] == 1 || c.size(1) <= 1, "matmul",
               "the result's columns must lie next to each other: got strides {}", c.strides());
  Tensor c3 = c.unsqueeze(0);
  count_product(OperationKind::FloatProduct, a.size(0), b.size(1), a.size(1));
  NIBBLE_DISPATCH(c.device(), matmul(c3, batched(a, {}), batched(b, {}), accumulate));
  c.bump_version();
}

void matmul_bias_into(Tensor& c, const Tensor& a, const Tensor& b, const Tensor& bias) {
  check_operands(a, b);
  check_same_kind("matmul_bias", a, bias);
  check_same_kind("matmul_bias", a, c);
  NIBBLE_CHECK(a.rank() == 2 && b.rank() == 2 && bias.shape() == Shape{b.size(1)} &&
                   c.shape() == Shape({a.size(0), b.size(1)}) && c.is_contiguous(),
               "matmul_bias",
               "got {} x {} + {} into {}, expected [M, K] x [K, N] + [N] into [M, N]", describe(a),
               describe(b), describe(bias), describe(c));
  Tensor c3 = c.unsqueeze(0);
  count_product(OperationKind::FloatProduct, a.size(0), b.size(1), a.size(1));
  NIBBLE_DISPATCH(c.device(), matmul_bias(c3, batched(a, {}), batched(b, {}), contiguous(bias)));
  c.bump_version();
}

}  // namespace nibble::ops
