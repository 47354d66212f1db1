#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernel_checks.h"
#include "tensor/biased_product.h"
#include "tensor/ops.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

// [M, K] × [K, N] in f64, operand values as stored.
std::vector<double> reference(const Tensor& a, const Tensor& b) {
  const std::int64_t m = a.size(0), k = a.size(1), n = b.size(1);
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  std::vector<double> z(static_cast<std::size_t>(m * n));
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t p = 0; p < k; ++p)
      for (std::int64_t j = 0; j < n; ++j) z[at(i * n + j)] += x[at(i * k + p)] * y[at(p * n + j)];
  return z;
}

double tolerance(DType dtype) {
  return dtype == DType::F64 ? 1e-12 : dtype == DType::F32 ? 1e-6 : 1e-2;
}

}  // namespace

TEST_CASE("matmul: matches a naive product in every dtype, layout and odd size") {
  struct Sizes {
    std::int64_t m, k, n;
  };
  for (const DType dtype : {DType::F64, DType::F32, DType::BF16})
    for (const Sizes s :
         {Sizes{1, 1, 1}, {1, 70, 33}, {17, 1, 5}, {3, 129, 1}, {67, 31, 45}, {300, 65, 130}})
      for (int layout = 0; layout < 4; ++layout) {
        const Tensor a =
            (layout & 1) ? random({s.k, s.m}, 1, dtype).t() : random({s.m, s.k}, 1, dtype);
        const Tensor b =
            (layout & 2) ? random({s.n, s.k}, 2, dtype).t() : random({s.k, s.n}, 2, dtype);
        const Tensor c = ops::matmul(a, b);
        CHECK(c.dtype() == dtype);
        CHECK(max_difference(c, reference(a, b)) <= tolerance(dtype) * std::sqrt(double(s.k)));
      }
}

TEST_CASE("matmul: a bf16 product is the f32 sum rounded once") {
  // 1 + 2^-8 + 2^-8: a sum rounded to bf16 at every step would stay at 1.
  const Tensor a = Tensor::from<bfloat16>(
      {bfloat16(1.0f), bfloat16(0.00390625f), bfloat16(0.00390625f)}, {1, 3});
  const Tensor b = Tensor::full({3, 1}, 1, DType::BF16);
  CHECK(ops::matmul(a, b).item() == 1.0078125);
  // Longer than one panel.
  const Tensor x = random({5, 2500}, 3, DType::BF16), y = random({2500, 7}, 4, DType::BF16);
  Tensor wide = Tensor::zeros({5, 7});
  ops::matmul_into(wide, x, y, false);
  CHECK(max_difference(wide, reference(x, y)) < 1e-3);
  CHECK(bytes(ops::matmul(x, y)) == bytes(wide.to(DType::BF16)));
}

TEST_CASE("matmul: accumulates, also into a wider or strided result") {
  for (const DType dtype : {DType::F64, DType::F32, DType::BF16})
    for (const DType out : {dtype, DType::F32}) {
      if (dtype == DType::F64 && out == DType::F32) continue;
      const Tensor a = random({19, 40}, 5, dtype), b = random({40, 23}, 6, dtype);
      Tensor frame = Tensor::full({19, 50}, 2, out);
      Tensor c = frame.slice(1, 4, 27);
      ops::matmul_into(c, a, b, true);
      std::vector<double> expected = reference(a, b);
      for (double& v : expected) v += 2;
      CHECK(max_difference(c, expected) < tolerance(dtype) * 7);
      ops::matmul_into(c, a, b, false);
      CHECK(max_difference(c, reference(a, b)) < tolerance(dtype) * 7);
      CHECK(max_difference(frame.slice(1, 0, 4), std::vector<double>(19 * 4, 2.0)) == 0);
      CHECK(max_difference(frame.slice(1, 27, 50), std::vector<double>(19 * 23, 2.0)) == 0);
    }
}

TEST_CASE("matmul: broadcasts batches and takes permuted views") {
  const Tensor a = random({2, 1, 5, 6}, 7), b = random({3, 6, 4}, 8);
  const Tensor c = ops::matmul(a, b);
  CHECK(c.shape() == Shape{2, 3, 5, 4});
  for (std::int64_t i = 0; i < 2; ++i)
    for (std::int64_t j = 0; j < 3; ++j)
      CHECK(max_difference(c.select(0, i).select(0, j),
                           reference(a.select(0, i).select(0, 0), b.select(0, j))) < 1e-5);
  const Tensor heads = random({9, 2, 8}, 9).permute({1, 0, 2});  // [2, 9, 8] of [9, 2, 8]
  const Tensor scores = ops::matmul(heads, heads.transpose(1, 2));
  for (std::int64_t h = 0; h < 2; ++h)
    CHECK(max_difference(scores.select(0, h),
                         reference(heads.select(0, h), heads.select(0, h).t())) < 1e-5);
  const Tensor shared = ops::matmul(random({4, 3, 6}, 10), random({6, 2}, 11));
  CHECK(max_difference(shared.view({12, 2}),
                       reference(random({4, 3, 6}, 10).view({12, 6}), random({6, 2}, 11))) < 1e-5);
  const Tensor strided = random({6, 12}, 12).view({6, 6, 2}).select(2, 0);  // no unit stride
  CHECK(max_difference(ops::matmul(strided, strided), reference(strided, strided)) < 1e-5);
}

TEST_CASE("matmul: empty extents") {
  CHECK(ops::matmul(Tensor::zeros({0, 3}), Tensor::zeros({3, 2})).shape() == Shape{0, 2});
  CHECK(ops::matmul(Tensor::zeros({2, 0, 3}), Tensor::zeros({3, 2})).shape() == Shape{2, 0, 2});
  const Tensor none = ops::matmul(Tensor::zeros({2, 3, 0}), Tensor::zeros({0, 2}));
  CHECK(max_difference(none, std::vector<double>(12, 0.0)) == 0);
  Tensor c = Tensor::full({2, 2}, 3);
  ops::matmul_into(c, Tensor::zeros({2, 0}), Tensor::zeros({0, 2}), true);
  CHECK(max_difference(c, std::vector<double>(4, 3.0)) == 0);
}

TEST_CASE("matmul: the bits do not depend on the number of threads") {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const Tensor a = random({530, 300}, 13, dtype), b = random({300, 170}, 14, dtype);
    const Tensor dy = random({530, 170}, 15, dtype);
    check_thread_independence([&] {
      return std::vector{ops::matmul(a, b), ops::matmul(a.t(), dy), ops::matmul(dy, b.t())};
    });
  }
}

TEST_CASE("matmul: meta tensors give shapes") {
  const Tensor a = Tensor::empty({2, 5, 6}, DType::BF16, kMeta);
  const Tensor b = Tensor::empty({6, 4}, DType::BF16, kMeta);
  const Tensor c = ops::matmul(a, b);
  CHECK(c.shape() == Shape{2, 5, 4});
  CHECK(c.device() == kMeta);
  CHECK(c.dtype() == DType::BF16);
}

TEST_CASE("matmul: errors name what is wrong") {
  const Tensor a = Tensor::zeros({2, 3});
  CHECK_THROWS_WITH_AS(ops::matmul(a, a),
                       "matmul: inner extents differ: got f32[2, 3] on cpu and f32[2, 3] on cpu, "
                       "expected [..., M, K] and [..., K, N]",
                       Error);
  CHECK_THROWS_WITH_AS(
      ops::matmul(a, a.t().to(DType::BF16)),
      "matmul: dtypes differ: got f32[2, 3] on cpu and bf16[3, 2] on cpu; convert one with to()",
      Error);
  CHECK_THROWS_WITH_AS(ops::matmul(a, Tensor::zeros({3})),
                       "matmul: got f32[2, 3] on cpu and f32[3] on cpu, expected matrices", Error);
  CHECK_THROWS_WITH_AS(ops::matmul(Tensor::zeros({2, 2, 3}), Tensor::zeros({3, 3, 2})),
                       "matmul: shapes do not broadcast: got [2] and [3]", Error);
  Tensor c = Tensor::zeros({3, 2});
  CHECK_THROWS_WITH_AS(ops::matmul_into(c, a, a.t(), false),
                       "matmul: got f32[2, 3] on cpu x f32[3, 2] on cpu into f32[3, 2] on cpu, "
                       "expected [M, K] and [K, N] into [M, N]",
                       Error);
  Tensor transposed = Tensor::zeros({2, 2}).t();
  CHECK_THROWS_WITH_AS(
      ops::matmul_into(transposed, a, a.t(), false),
      "matmul: the result's columns must lie next to each other: got strides [1, 2]", Error);
}

TEST_CASE("matmul: a bias is added before the one rounding") {
  // 257 lies between two bf16 numbers: rounded before the bias, 257 + 0.75 would be 256 or 258.
  const Tensor a = Tensor::full({3, 2}, 128.5, DType::F32), b = Tensor::full({2, 4}, 1, DType::F32);
  const Tensor bias = Tensor::from(std::vector{-0.75f, 0.25f, 1.0f, 3.0f}, {4});
  Tensor c = Tensor::empty({3, 4}, DType::BF16);
  const Tensor ah = Tensor::full({3, 257}, 1, DType::BF16),
               bh = Tensor::full({257, 4}, 1, DType::BF16);
  ops::matmul_bias_into(c, ah, bh, bias.to(DType::BF16));
  for (int row = 0; row < 3; ++row) {
    const std::vector<float> y = c.select(0, row).to_vector();
    CHECK(y == std::vector<float>{256, 258, 258, 260});
  }
  Tensor wide = Tensor::empty({3, 4});
  ops::matmul_bias_into(wide, a, b, bias);
  CHECK(wide.select(0, 2).to_vector() == std::vector<float>{256.25f, 257.25f, 258, 260});
  CHECK_THROWS_WITH_AS(ops::matmul_bias_into(wide, a, b, bias.slice(0, 0, 3)),
                       doctest::Contains("matmul_bias: got f32[3, 2]"), Error);
}
