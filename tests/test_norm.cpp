#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "kernel_checks.h"
#include "tensor/ops.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

constexpr double kEpsilon = 1e-5;

struct Case {
  bool centred;  // layer_norm, else rms_norm
  Tensor x, gamma, beta;
};

Case make_case(bool centred, std::int64_t m, std::int64_t n, DType dtype) {
  return {centred, random({m, n}, 1, dtype), random({n}, 2, dtype), random({n}, 3, dtype)};
}

ops::NormResult run(const Case& c) {
  return c.centred ? ops::layer_norm(c.x, c.gamma, c.beta, kEpsilon)
                   : ops::rms_norm(c.x, c.gamma, kEpsilon);
}

struct Gradients {
  Tensor dx, dgamma, dbeta;
};

Gradients gradients(const Case& c, const Tensor& dy, DType sums) {
  const ops::NormResult r = run(c);
  const Shape n{c.gamma.size(0)};
  Gradients g{Tensor::full(c.x.shape(), 9, c.x.dtype()), Tensor::full(n, 2, sums),
              Tensor::full(n, 2, sums)};
  if (c.centred)
    cpu::layer_norm_backward(g.dx, g.dgamma, g.dbeta, dy, c.x, c.gamma, r.mean, r.rstd);
  else
    cpu::rms_norm_backward(g.dx, g.dgamma, dy, c.x, c.gamma, r.rstd);
  return g;
}

struct Expected {
  std::vector<double> y, dx, dgamma, dbeta;
};

Expected reference(const Case& c, const Tensor& dy) {
  const std::int64_t m = c.x.size(0), n = c.x.size(1);
  const double width = static_cast<double>(n);
  const std::vector<double> x = c.x.to_vector<double>(), gamma = c.gamma.to_vector<double>(),
                            beta = c.beta.to_vector<double>(), g = dy.to_vector<double>();
  Expected e{x, x, std::vector<double>(at(n), 2.0), std::vector<double>(at(n), 2.0)};
  for (std::int64_t i = 0; i < m; ++i) {
    double mean = 0, square = 0, a = 0, b = 0;
    for (std::int64_t j = 0; j < n && c.centred; ++j) mean += x[at(i * n + j)] / width;
    for (std::int64_t j = 0; j < n; ++j) square += std::pow(x[at(i * n + j)] - mean, 2) / width;
    const double rstd = 1 / std::sqrt(square + kEpsilon);
    for (std::int64_t j = 0; j < n; ++j) {
      const double hat = (x[at(i * n + j)] - mean) * rstd, d = g[at(i * n + j)];
      e.y[at(i * n + j)] = hat * gamma[at(j)] + (c.centred ? beta[at(j)] : 0);
      e.dgamma[at(j)] += d * hat;
      e.dbeta[at(j)] += d;
      if (c.centred) a += d * gamma[at(j)] / width;
      b += d * gamma[at(j)] * hat / width;
    }
    for (std::int64_t j = 0; j < n; ++j) {
      const double hat = (x[at(i * n + j)] - mean) * rstd;
      e.dx[at(i * n + j)] = rstd * (g[at(i * n + j)] * gamma[at(j)] - a - hat * b);
    }
  }
  return e;
}

}  // namespace

TEST_CASE("norm: outputs and gradients match a naive reference") {
  for (const bool centred : {true, false})
    for (const DType dtype : {DType::F64, DType::F32, DType::BF16})
      for (const auto& [m, n] : {std::pair{1, 2}, {3, 17}, {530, 40}}) {
        const Case c = make_case(centred, m, n, dtype);
        const Tensor dy = random(c.x.shape(), 4, dtype);
        const Expected e = reference(c, dy);
        const double unit = dtype == DType::F64 ? 1e-13 : dtype == DType::F32 ? 1e-5 : 3e-2;
        CHECK(max_difference(run(c).y, e.y) < unit);
        // Sums over rows are kept in f32, or f64, whatever the inputs are.
        const DType sums = dtype == DType::F64 ? DType::F64 : DType::F32;
        const Gradients g = gradients(c, dy, sums);
        CHECK(max_difference(g.dx, e.dx) < unit * 20);
        CHECK(max_difference(g.dgamma, e.dgamma) < (sums == DType::F64 ? 1e-12 : 1e-4));
        if (centred) CHECK(max_difference(g.dbeta, e.dbeta) < (sums == DType::F64 ? 1e-12 : 1e-4));
        CHECK(max_difference(gradients(c, dy, dtype).dgamma, e.dgamma) < unit * 50);
      }
}

TEST_CASE("norm: gradients match finite differences") {
  for (const bool centred : {true, false}) {
    Case c = make_case(centred, 3, 5, DType::F64);
    const Tensor dy = random(c.x.shape(), 4, DType::F64);
    const std::vector<double> weights = dy.to_vector<double>();
    const std::vector<double> dx = gradients(c, dy, DType::F64).dx.to_vector<double>();
    const auto objective = [&] {
      const std::vector<double> y = run(c).y.to_vector<double>();
      double total = 0;
      for (std::size_t i = 0; i < y.size(); ++i) total += y[i] * weights[i];
      return total;
    };
    double* values = c.x.data<double>();
    for (std::int64_t i = 0; i < c.x.numel(); ++i) {
      constexpr double kStep = 1e-5;
      values[i] += kStep;
      const double above = objective();
      values[i] -= 2 * kStep;
      const double below = objective();
      values[i] += kStep;
      CHECK(std::abs((above - below) / (2 * kStep) - dx[at(i)]) < 1e-7);
    }
  }
}

TEST_CASE("norm: undefined gradients and beta are skipped") {
  const Case c = make_case(true, 7, 9, DType::F32);
  const Tensor dy = random(c.x.shape(), 4);
  const ops::NormResult r = run(c);
  const Gradients full = gradients(c, dy, DType::F32);
  Tensor none, dx = Tensor::empty(c.x.shape()), dgamma = Tensor::full({9}, 2);
  cpu::layer_norm_backward(dx, none, none, dy, c.x, c.gamma, r.mean, r.rstd);
  CHECK(bytes(dx) == bytes(full.dx));
  cpu::layer_norm_backward(none, dgamma, none, dy, c.x, c.gamma, r.mean, r.rstd);
  CHECK(bytes(dgamma) == bytes(full.dgamma));
  const Tensor plain = ops::layer_norm(c.x, c.gamma, {}, kEpsilon).y;
  const Tensor zero = ops::layer_norm(c.x, c.gamma, Tensor::zeros({9}), kEpsilon).y;
  CHECK(max_difference(plain, zero) < 1e-6);
}

TEST_CASE("norm: strided inputs and leading dimensions are taken as rows") {
  const Tensor x = random({4, 3, 5}, 1), gamma = random({3}, 2);
  const ops::NormResult a = ops::rms_norm(x.transpose(1, 2), gamma);
  const ops::NormResult b = ops::rms_norm(x.transpose(1, 2).clone().view({20, 3}), gamma);
  CHECK(a.y.shape() == Shape{4, 5, 3});
  CHECK(bytes(a.y) == bytes(b.y));
  CHECK(!a.mean.defined());
}

TEST_CASE("norm: the bits do not depend on the number of threads") {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const Case c = make_case(true, 1100, 48, dtype);
    const Tensor dy = random(c.x.shape(), 4, dtype);
    check_thread_independence([&] {
      const ops::NormResult r = run(c);
      const Gradients g = gradients(c, dy, DType::F32);
      return std::vector{r.y, r.mean, r.rstd, g.dx, g.dgamma, g.dbeta};
    });
  }
}

TEST_CASE("norm: meta tensors give shapes, errors name what is wrong") {
  const Tensor x = Tensor::empty({2, 5, 8}, DType::BF16, kMeta);
  const Tensor gamma = Tensor::empty({8}, DType::BF16, kMeta);
  const ops::NormResult r = ops::layer_norm(x, gamma, {});
  CHECK(r.y.shape() == x.shape());
  CHECK(r.mean.shape() == Shape{10});
  CHECK(r.rstd.dtype() == DType::F32);
  CHECK_THROWS_WITH_AS(ops::layer_norm(x, Tensor::zeros({7}), {}),
                       "layer_norm: got gamma f32[7] on cpu for x bf16[2, 5, 8] on meta, expected "
                       "one value a column",
                       Error);
  CHECK_THROWS_WITH_AS(ops::rms_norm(random({2, 3}, 1), Tensor::zeros({3}), 0),
                       "rms_norm: got epsilon 0, expected a positive one", Error);
}
