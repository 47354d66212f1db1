#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernel_checks.h"
#include "tensor/ops.h"
#include "tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

constexpr std::int64_t kRows = 37, kClasses = 101;

Tensor make_targets() {
  std::vector<std::int32_t> t(kRows);
  for (std::size_t i = 0; i < t.size(); ++i)
    t[i] = i % 5 == 2 ? -1 : static_cast<std::int32_t>(i * 29 % kClasses);
  t[0] = kClasses - 1;
  return Tensor::from(t, {kRows});
}

Tensor make_logits(DType dtype) {
  return ops::affine(random({kRows, kClasses}, 1, DType::F64), 8).to(dtype);
}

struct Losses {
  std::vector<double> loss, gradient;
};

Losses reference(const Tensor& logits, const Tensor& targets, double scale) {
  const std::vector<double> x = logits.to_vector<double>();
  const std::vector<std::int32_t> t = targets.to_vector<std::int32_t>();
  Losses r{std::vector<double>(kRows), std::vector<double>(x.size())};
  for (std::int64_t i = 0; i < kRows; ++i) {
    double sum = 0;
    for (std::int64_t j = 0; j < kClasses; ++j) sum += std::exp(x[at(i * kClasses + j)]);
    const std::int32_t target = t[at(i)];
    r.loss[at(i)] = target < 0 ? 0 : std::log(sum) - x[at(i * kClasses + target)];
    for (std::int64_t j = 0; j < kClasses && target >= 0; ++j)
      r.gradient[at(i * kClasses + j)] =
          scale * (std::exp(x[at(i * kClasses + j)]) / sum - (j == target ? 1 : 0));
  }
  return r;
}

struct Result {
  Tensor loss, gradient;
};

Result run(const Tensor& logits, const Tensor& targets, double scale) {
  const ops::CrossEntropy forward = ops::cross_entropy(logits, targets);
  const Tensor factor = Tensor::full({1}, scale, forward.lse.dtype());
  Tensor gradient = Tensor::empty(logits.shape(), logits.dtype()), both = logits.clone();
  ops::cross_entropy_backward(gradient, logits, targets, forward.lse, factor);
  CHECK(same_bits(ops::cross_entropy_gradient(both, targets, factor), forward.losses));
  CHECK(same_bits(both, gradient));
  Tensor in_place = logits.clone();
  ops::cross_entropy_backward(in_place, in_place, targets, forward.lse, factor);
  CHECK(same_bits(in_place, gradient));
  return {forward.losses, gradient};
}

}  // namespace

TEST_CASE("cross_entropy: loss and gradient match a naive reference") {
  const Tensor targets = make_targets();
  for (const DType dtype : {DType::F64, DType::F32, DType::BF16}) {
    const Tensor logits = make_logits(dtype);
    const Losses expected = reference(logits, targets, 0.25);
    const Result r = run(logits, targets, 0.25);
    CHECK(max_difference(r.loss, expected.loss) < (dtype == DType::F64 ? 1e-13 : 1e-5));
    CHECK(max_difference(r.gradient, expected.gradient) < (dtype == DType::F64   ? 1e-14
                                                           : dtype == DType::F32 ? 1e-6
                                                                                 : 2e-3));
  }
}

TEST_CASE("cross_entropy: ignored rows have no loss and no gradient, whatever they hold") {
  Tensor logits = make_logits(DType::F32);
  logits.slice(0, 2, 3).fill(std::numeric_limits<double>::quiet_NaN());
  const Result r = run(logits, make_targets(), 1);
  CHECK(r.loss.to_vector()[2] == 0);
  CHECK(max_difference(r.gradient.select(0, 2), std::vector<double>(kClasses, 0.0)) == 0);
  CHECK(max_difference(r.gradient.select(0, 3), std::vector<double>(kClasses, 0.0)) > 0);
}

TEST_CASE("cross_entropy: huge logits stay finite, masked classes count for nothing") {
  const double inf = std::numeric_limits<double>::infinity();
  const Tensor targets = Tensor::from(std::vector<std::int32_t>{1}, {1});
  Tensor logits = Tensor::full({1, 600}, -inf);
  logits.slice(1, 0, 2).fill(1e30);
  const ops::CrossEntropy masked = ops::cross_entropy(logits, targets);
  CHECK(masked.lse.item() == 1e30f);
  CHECK(masked.losses.item() == 0);
  logits.slice(1, 599, 600).fill(std::numeric_limits<double>::quiet_NaN());
  CHECK(std::isnan(ops::cross_entropy(logits, targets).lse.item()));
}

TEST_CASE("cross_entropy: the bits do not depend on the number of threads") {
  const Tensor logits = random({300, 257}, 1);
  std::vector<std::int32_t> t(300);
  for (std::size_t i = 0; i < t.size(); ++i) t[i] = static_cast<std::int32_t>(i % 257);
  const Tensor targets = Tensor::from(t, {300}), scale = Tensor::full({1}, 0.01);
  check_thread_independence([&] {
    const ops::CrossEntropy y = ops::cross_entropy(logits, targets);
    Tensor d = logits.clone();
    ops::cross_entropy_gradient(d, targets, scale);
    return std::vector{y.losses, y.lse, d};
  });
}

TEST_CASE("cross_entropy: meta tensors pass through") {
  Tensor logits = Tensor::empty({4, 9}, DType::BF16, kMeta);
  const Tensor targets = Tensor::empty({4}, DType::I32, kMeta);
  ops::check_targets(targets, 9);
  const ops::CrossEntropy y = ops::cross_entropy(logits, targets);
  const Tensor scale = Tensor::full({1}, 1, DType::F32, kMeta);
  ops::cross_entropy_backward(logits, logits, targets, y.lse, scale);
  CHECK(ops::cross_entropy_gradient(logits, targets, scale).shape() == Shape{4});
  CHECK(y.losses.dtype() == DType::F32);
}

TEST_CASE("cross_entropy: errors name what is wrong") {
  const auto targets = [](std::int32_t value) {
    return Tensor::from(std::vector<std::int32_t>{0, value}, {2});
  };
  ops::check_targets(targets(-1), 5);
  ops::check_targets(targets(4), 5);
  CHECK_THROWS_WITH_AS(
      ops::check_targets(targets(5), 5),
      "cross_entropy: got target 5 in row 1, expected 0 to 4, or -1 for an ignored row", Error);
  CHECK_THROWS_WITH_AS(ops::check_targets(Tensor::zeros({2}), 5),
                       "cross_entropy: got targets f32[2] on cpu, expected dtype i32", Error);
  CHECK_THROWS_WITH_AS(
      ops::cross_entropy(Tensor::zeros({2, 5}), targets(-2)),
      "cross_entropy: got target -2 in row 1, expected 0 to 4, or -1 for an ignored row", Error);
  CHECK_THROWS_WITH_AS(
      ops::cross_entropy(Tensor::zeros({3, 5}), targets(1)),
      "cross_entropy: got targets i32[2] on cpu for logits f32[3, 5] on cpu, expected one a row",
      Error);
  Tensor logits = Tensor::zeros({2, 5}, DType::F64);
  CHECK_THROWS_WITH_AS(ops::cross_entropy_gradient(logits, targets(1), Tensor::full({1}, 1)),
                       "cross_entropy: got scale f32[1] on cpu, expected one f64 on cpu", Error);
  CHECK_THROWS_WITH_AS(
      ops::cross_entropy_backward(logits, logits, targets(1), Tensor::zeros({3}, DType::F64),
                                  Tensor::full({1}, 1, DType::F64)),
      "cross_entropy: got log-sum-exps f64[3] on cpu for logits f64[2, 5] on cpu, expected one f64 "
      "a row",
      Error);
}
