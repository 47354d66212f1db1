// cuda::matmul: cuBLASLt where it can (700 to 800 TFLOP/s in bf16 on an H200), else our own general
// kernel.
#include "tensor/cuda/matmul.h"

#include <algorithm>
#include <atomic>
#include <optional>

#include "tensor/biased_product.h"
#include "tensor/cuda/gemm_lt.h"
#include "tensor/kernels.h"

namespace nibble::cuda {
namespace {

std::atomic<std::uint64_t> g_generic_products{0};

// Matrices [B, rows, cols] as the library wants them; none when neither rows nor columns are
// contiguous runs that don't overlap.
std::optional<LtMatrix> lt_matrix(const Tensor& x) {
  const std::int64_t rows = x.size(1), cols = x.size(2);
  const std::int64_t row_stride = x.strides()[1], col_stride = x.strides()[2];
  LtMatrix y;
  y.dtype = x.dtype();
  if ((col_stride == 1 || cols == 1) && (row_stride >= cols || rows == 1)) {
    y.stride = rows == 1 ? cols : row_stride;
  } else if ((row_stride == 1 || rows == 1) && (col_stride >= rows || cols == 1)) {
    y.transposed = true;
    y.stride = cols == 1 ? rows : col_stride;
  } else {
    return std::nullopt;
  }
  y.batch_stride = x.size(0) == 1 ? 0 : x.strides()[0];
  y.alignment = alignment_of(x.raw(), bytes_of(x.dtype(), y.batch_stride));
  return y;
}

// Grids of batched library kernels end at this many matrices.
constexpr std::int64_t kMaxBatch = 65535;

// `bias` may be undefined.
bool multiply_by_library(Tensor& c, const Tensor& a, const Tensor& b, const Tensor& bias,
                         bool accumulate) {
  const std::optional<LtMatrix> lhs = lt_matrix(a), rhs = lt_matrix(b), out = lt_matrix(c);
  if (!lhs || !rhs || !out || out->transposed) return false;
  for (std::int64_t done = 0; done < c.size(0); done += kMaxBatch) {
    LtProduct p;
    p.batch = std::min(kMaxBatch, c.size(0) - done);
    p.m = c.size(1), p.n = c.size(2), p.k = a.size(2);
    p.a = *lhs, p.b = *rhs, p.c = *out;
    p.accumulate = accumulate;
    if (bias.defined()) p.bias_alignment = alignment_of(bias.raw());
    const auto at = [&](const Tensor& x, const LtMatrix& layout) {
      return const_cast<std::byte*>(x.raw()) + bytes_of(x.dtype(), done * layout.batch_stride);
    };
    const void* const added = bias.defined() ? bias.raw() : nullptr;
    if (lt_multiply(p, {at(a, *lhs), at(b, *rhs), at(c, *out), added})) continue;
    // Only a smaller last part can find the library without an algorithm after the first.
    NIBBLE_CHECK(done == 0, "matmul", "no algorithm for the last {} of {} products", p.batch,
                 c.size(0));
    return false;
  }
  return true;
}

}  // namespace

std::uint64_t generic_products() { return g_generic_products.load(); }

void matmul(Tensor& c, const Tensor& a, const Tensor& b, bool accumulate) {
  if (c.numel() == 0) return;
  const bool known = (a.dtype() == DType::F32 || a.dtype() == DType::BF16) &&
                     (c.dtype() == a.dtype() || c.dtype() == DType::F32);
  if (known && a.size(2) > 0 && multiply_by_library(c, a, b, {}, accumulate)) return;
  multiply_generic(c, a, b, accumulate);
  ++g_generic_products;
}

void matmul_bias(Tensor& c, const Tensor& a, const Tensor& b, const Tensor& bias) {
  if (c.numel() == 0) return;
  const bool narrow = c.dtype() == DType::BF16;
  if ((narrow || c.dtype() == DType::F32) && a.size(2) > 0 &&
      multiply_by_library(c, a, b, bias, false))
    return;
  Tensor sums = narrow ? Tensor::empty(c.shape(), DType::F32, c.device()) : c;
  matmul(sums, a, b, false);
  Tensor rows = sums.view({c.size(1), c.size(2)});
  add_bias(rows, narrow ? bias.to(DType::F32) : bias);
  if (narrow) copy(c, sums);
}

}  // namespace nibble::cuda
