#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernel_checks.h"
#include "tensor/ops.h"

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
  std::vector<double> loss, gradient;  // loss of ignored rows: log-sum-exp
};

Losses reference(const Tensor& logits, const Tensor& targets, double scale) {
  const std::vector<double> x = logits.to_vector<double>();
  const std::vector<std::int32_t> t = targets.to_vector<std::int32_t>();
  Losses r{std::vector<double>(kRows), std::vector<double>(x.size())};
  for (std::int64_t i = 0; i < kRows; ++i) {
    double sum = 0;
    for (std::int64_t j = 0; j < kClasses; ++j) sum += std::exp(x[at(i * kClasses + j)]);
    const std::int32_t target = t[at(i)];
    r.loss[at(i)] = std::log(sum) - (target < 0 ? 0 : x[at(i * kClasses + target)]);
    for (std::int64_t j = 0; j < kClasses && target >= 0; ++j)
      r.gradient[at(i * kClasses + j)] =
          scale * (std::exp(x[at(i * kClasses + j)]) / sum - (j == target ? 1 : 0));
  }
  return r;
}

struct Result {
  Tensor loss, gradient;
};

Result run(const Tensor& logits, const Tensor& targets, std::int64_t chunk, double scale) {
  ops::CrossEntropyState state = ops::cross_entropy_begin(kRows, logits.dtype(), kCpu);
  const auto part = [&](std::int64_t begin) {
    return logits.slice(1, begin, std::min(begin + chunk, kClasses)).clone();
  };
  for (std::int64_t begin = 0; begin < kClasses; begin += chunk)
    ops::cross_entropy_update(state, part(begin), targets, begin);
  const Tensor lse = ops::cross_entropy_lse(state);
  Tensor gradient = Tensor::empty(logits.shape(), logits.dtype());
  const Tensor factor = Tensor::full({1}, scale, state.max.dtype());
  for (std::int64_t begin = 0; begin < kClasses; begin += chunk) {
    Tensor d = part(begin);  // in place, as linear_cross_entropy does it
    ops::cross_entropy_backward(d, d, targets, lse, factor, begin);
    gradient.slice(1, begin, begin + d.size(1)).copy_from(d);
  }
  return {ops::sub(lse, state.target_logit), gradient};
}

}  // namespace

TEST_CASE("cross_entropy: loss and gradient match a naive reference, whole or in chunks") {
  const Tensor targets = make_targets();
  for (const DType dtype : {DType::F64, DType::F32, DType::BF16})
    for (const std::int64_t chunk : {kClasses, std::int64_t{40}, std::int64_t{1}}) {
      const Tensor logits = make_logits(dtype);
      const Losses expected = reference(logits, targets, 0.25);
      const Result r = run(logits, targets, chunk, 0.25);
      CHECK(max_difference(r.loss, expected.loss) < (dtype == DType::F64 ? 1e-13 : 1e-5));
      CHECK(max_difference(r.gradient, expected.gradient) < (dtype == DType::F64   ? 1e-14
                                                             : dtype == DType::F32 ? 1e-6
                                                                                   : 2e-3));
    }
}

TEST_CASE("cross_entropy: ignored rows have no gradient") {
  const Result r = run(make_logits(DType::F32), make_targets(), 40, 1);
  CHECK(max_difference(r.gradient.select(0, 2), std::vector<double>(kClasses, 0.0)) == 0);
  CHECK(max_difference(r.gradient.select(0, 3), std::vector<double>(kClasses, 0.0)) > 0);
}

TEST_CASE("cross_entropy: huge logits stay finite, masked classes count for nothing") {
  const double inf = std::numeric_limits<double>::infinity();
  const Tensor targets = Tensor::from(std::vector<std::int32_t>{1}, {1});
  ops::CrossEntropyState state = ops::cross_entropy_begin(1, DType::F32, kCpu);
  // A whole chunk of masked classes comes first.
  ops::cross_entropy_update(state, Tensor::full({1, 1}, -inf), targets, 0);
  ops::cross_entropy_update(state, Tensor::from(std::vector<float>{1e30f, 1e30f}, {1, 2}), targets,
                            1);
  CHECK(state.max.item() == 1e30f);
  CHECK(state.sum.item() == 2);
  CHECK(state.target_logit.item() == 1e30f);
  ops::cross_entropy_update(state, Tensor::full({1, 1}, std::numeric_limits<double>::quiet_NaN()),
                            targets, 3);
  CHECK(std::isnan(ops::cross_entropy_lse(state).item()));
}

TEST_CASE("cross_entropy: the bits do not depend on the number of threads") {
  const Tensor logits = random({300, 257}, 1);
  std::vector<std::int32_t> t(300);
  for (std::size_t i = 0; i < t.size(); ++i) t[i] = static_cast<std::int32_t>(i % 257);
  const Tensor targets = Tensor::from(t, {300}), scale = Tensor::full({1}, 0.01);
  check_thread_independence([&] {
    ops::CrossEntropyState state = ops::cross_entropy_begin(300, DType::F32, kCpu);
    ops::cross_entropy_update(state, logits, targets, 0);
    Tensor d = Tensor::empty(logits.shape());
    ops::cross_entropy_backward(d, logits, targets, ops::cross_entropy_lse(state), scale, 0);
    return std::vector{state.max, state.sum, state.target_logit, d};
  });
}

TEST_CASE("cross_entropy: meta tensors pass through") {
  ops::CrossEntropyState state = ops::cross_entropy_begin(4, DType::BF16, kMeta);
  CHECK(state.sum.dtype() == DType::F32);
  Tensor logits = Tensor::empty({4, 9}, DType::BF16, kMeta);
  const Tensor targets = Tensor::empty({4}, DType::I32, kMeta);
  ops::check_targets(targets, 9);
  ops::cross_entropy_update(state, logits, targets, 0);
  ops::cross_entropy_backward(logits, logits, targets, ops::cross_entropy_lse(state),
                              Tensor::full({1}, 1, DType::F32, kMeta), 0);
  CHECK(ops::cross_entropy_lse(state).shape() == Shape{4});
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
  ops::CrossEntropyState state = ops::cross_entropy_begin(2, DType::F32, kCpu);
  CHECK_THROWS_WITH_AS(
      ops::cross_entropy_update(state, Tensor::zeros({2, 5}), targets(-2), 0),
      "cross_entropy: got target -2 in row 1, expected a class, or -1 for an ignored row", Error);
  CHECK_THROWS_WITH_AS(
      ops::cross_entropy_update(state, Tensor::zeros({3, 5}), targets(1), 0),
      "cross_entropy: got targets i32[2] on cpu for logits f32[3, 5] on cpu, expected one a row",
      Error);
  CHECK_THROWS_WITH_AS(
      ops::cross_entropy_update(state, Tensor::zeros({2, 5}, DType::F64), targets(1), 0),
      "cross_entropy: got running values f32[2] on cpu for logits f64[2, 5] on "
      "cpu, expected one f32 (f64 for f64) a row",
      Error);
}
