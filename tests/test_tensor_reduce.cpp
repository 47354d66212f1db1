#include <algorithm>

#include "tests/tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

// Folds x over `dims` in double; f(total, value).
template <class F>
std::vector<double> folded(const Tensor& x, const std::vector<int>& dims, double initial, F f) {
  std::vector<bool> reduced(static_cast<std::size_t>(x.rank()), dims.empty());
  for (const int d : dims) reduced[static_cast<std::size_t>(x.shape().index(d))] = true;
  std::int64_t kept = 1;
  for (int d = 0; d < x.rank(); ++d)
    if (!reduced[static_cast<std::size_t>(d)]) kept *= x.size(d);
  std::vector<double> out(static_cast<std::size_t>(kept), initial);
  const std::vector<double> v = x.to_vector<double>();
  for (std::size_t i = 0; i < v.size(); ++i) {
    std::int64_t rest = static_cast<std::int64_t>(i), at = 0, step = 1;
    for (int d = x.rank() - 1; d >= 0; --d) {
      if (!reduced[static_cast<std::size_t>(d)]) {
        at += rest % x.size(d) * step;
        step *= x.size(d);
      }
      rest /= x.size(d);
    }
    double& total = out[static_cast<std::size_t>(at)];
    total = f(total, v[i]);
  }
  return out;
}
double plus(double a, double b) { return a + b; }

const std::vector<std::vector<int>> kDims{{},     {0},    {1},    {2},     {-1},        {0, 1},
                                          {1, 2}, {2, 0}, {0, 2}, {1, -4}, {0, 1, 2, 3}};

// Rows of x with f(row, out).
template <class F>
std::vector<double> by_rows(const Tensor& x, F f) {
  std::vector<double> v = x.to_vector<double>();
  const auto n = static_cast<std::size_t>(x.cols());
  for (std::size_t r = 0; r < v.size(); r += n) f(v.data() + r, n);
  return v;
}
void softmax_ref(double* p, std::size_t n) {
  const double m = *std::max_element(p, p + n);
  double total = 0;
  for (std::size_t i = 0; i < n; ++i) total += p[i] = std::exp(p[i] - m);
  for (std::size_t i = 0; i < n; ++i) p[i] /= total;
}

}  // namespace

TEST_CASE("tensor: sum, mean, max and min over any dimensions") {
  for (const DType d : kFloats) {
    const Tensor base = random({3, 5, 2, 67}, d);
    for (const Tensor& x : {base, base.transpose(0, 3), base.slice(3, 5, 6)})
      for (const std::vector<int>& dims : kDims) {
        CAPTURE(d);
        CAPTURE(x.shape());
        CAPTURE(fmt::format("{}", fmt::join(dims, ",")));
        const std::vector<double> total = folded(x, dims, 0, plus);
        const double count = static_cast<double>(x.numel()) / static_cast<double>(total.size());
        check_close(ops::sum(x, dims), total, tolerance(d), count);
        std::vector<double> mean = total;
        for (double& m : mean) m /= count;
        check_close(ops::mean(x, dims), mean, 2 * tolerance(d), 1);
        check_close(ops::max(x, dims),
                    folded(x, dims, -1e9, [](double a, double b) { return a > b ? a : b; }), 0);
        check_close(ops::min(x, dims),
                    folded(x, dims, 1e9, [](double a, double b) { return a < b ? a : b; }), 0);
      }
    CHECK(ops::sum(base, {1, 3}, true).shape() == Shape{3, 1, 2, 1});
    CHECK(ops::sum(base, {1, 3}).shape() == Shape{3, 2});
    CHECK(ops::sum(Tensor::zeros({0, 3}, d), {0}).to_vector<double>() ==
          std::vector<double>{0, 0, 0});
    CHECK(ops::sum(Tensor::zeros({0, 3}, d)).item() == 0);
    CHECK(ops::max(Tensor::zeros({0, 3}, d), {1}).numel() == 0);
  }
}

TEST_CASE("tensor: long sums keep f32 accuracy") {
  const Tensor x = Tensor::full({3000000}, 0.1);
  CHECK(ops::sum(x).item() == doctest::Approx(300000.0045).epsilon(1e-5));
  const Tensor tall = Tensor::full({30000, 5}, 0.1);
  for (const float v : ops::sum(tall, {0}).to_vector())
    CHECK(v == doctest::Approx(3000.0).epsilon(1e-5));
}

TEST_CASE("tensor: NaN comes through max and argmax, infinities too") {
  const float nan = std::nanf("");
  for (const std::int64_t n : {5, 200}) {
    std::vector<float> v(static_cast<std::size_t>(n), 1);
    v[3] = nan;
    v[4] = 7;
    const Tensor x = Tensor::from(v, {n});
    CHECK(std::isnan(ops::max(x).item()));
    CHECK(ops::argmax(x).item() == 3);
    CHECK(std::isnan(ops::max(ops::stack({x, x}, 1), {0}).to_vector()[1]));
  }
  CHECK(ops::max(Tensor::full({70}, -INFINITY)).item() == -INFINITY);
}

TEST_CASE("tensor: argmax takes the first of equals along any dimension") {
  for (const DType d : kFloats) {
    const Tensor x = Tensor::from(std::vector<float>{1, 5, 5, 2, 9, 9, -1, -3, -1}, {3, 3}).to(d);
    CHECK(ops::argmax(x).to_vector<std::int32_t>() == std::vector<std::int32_t>{1, 1, 0});
    CHECK(ops::argmax(x, 0).to_vector<std::int32_t>() == std::vector<std::int32_t>{1, 1, 1});
    CHECK(ops::argmax(x.t(), 0).to_vector<std::int32_t>() == std::vector<std::int32_t>{1, 1, 0});
  }
}

TEST_CASE("tensor: cumsum runs along any dimension") {
  for (const DType d : kFloats) {
    const Tensor x = Tensor::from(std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3}).to(d);
    check_close(ops::cumsum(x), {1, 3, 6, 4, 9, 15}, 0);
    check_close(ops::cumsum(x, 0), {1, 2, 3, 5, 7, 9}, 0);
  }
}

TEST_CASE("tensor: sum_to undoes a broadcast") {
  const Tensor x = random({4, 3, 5}, DType::F64);
  CHECK(ops::sum_to(x, {4, 3, 5}).same_storage(x));
  check_close(ops::sum_to(x, {5}), folded(x, {0, 1}, 0, plus), 1e-13);
  check_close(ops::sum_to(x, {4, 1, 5}), folded(x, {1}, 0, plus), 1e-13);
  check_close(ops::sum_to(x, {3, 1}), folded(x, {0, 2}, 0, plus), 1e-13);
  check_close(ops::sum_to(x, {}), folded(x, {}, 0, plus), 1e-13);
  CHECK(ops::sum_to(x, {1, 3, 1}).shape() == Shape{1, 3, 1});
  CHECK(error_of([&] {
          ops::sum_to(x, {2, 1, 3, 5});
        }) == "sum_to: got [4, 3, 5], which is no broadcast of [2, 1, 3, 5]");
}

TEST_CASE("tensor: sum_squares and all_finite see every element") {
  for (const DType d : kFloats)
    for (const std::int64_t n : {0, 1, 45, 2 * 16384 + 13}) {
      Tensor x = random({n}, d);
      const double expected = folded(x, {}, 0, [](double a, double b) { return a + b * b; })[0];
      CHECK(ops::sum_squares(x).item() == doctest::Approx(expected).epsilon(1e-13));
      CHECK(ops::all_finite(x));
      if (n == 0) continue;
      for (const std::int64_t at : {std::int64_t{0}, n - 1})
        for (const double bad : {double(INFINITY), -double(INFINITY), std::nan("")}) {
          Tensor y = x.clone();
          y.select(0, at).fill(bad);
          CHECK_FALSE(ops::all_finite(y));
        }
    }
  Tensor total = Tensor::full({}, 5, DType::F64);
  cpu::sum_squares(total, Tensor::full({3}, 2), true);
  CHECK(total.item() == 17);
}

TEST_CASE("tensor: softmax and log_softmax with gradients") {
  for (const DType d : kFloats)
    for (const Shape& shape :
         {Shape{1}, Shape{3, 7}, Shape{2, 3, 33}, Shape{2, 1025}, Shape{0, 4}, Shape{4, 0}}) {
      CAPTURE(d);
      CAPTURE(shape);
      const Tensor x = random(shape, d, -30, 30), dy = random(shape, d, -1, 1, 2);
      if (x.numel() == 0) {
        CHECK(ops::softmax(x).shape() == shape);
        CHECK(ops::log_softmax_backward(dy, ops::log_softmax(x)).shape() == shape);
        continue;
      }
      const Tensor y = ops::softmax(x), z = ops::log_softmax(x);
      check_close(y, by_rows(x, softmax_ref), 4 * tolerance(d), 1e-30);
      check_close(z,
                  by_rows(x,
                          [](double* p, std::size_t n) {
                            const double m = *std::max_element(p, p + n);
                            double total = 0;
                            for (std::size_t i = 0; i < n; ++i) total += std::exp(p[i] - m);
                            for (std::size_t i = 0; i < n; ++i) p[i] -= m + std::log(total);
                          }),
                  tolerance(d), 1);
      const std::vector<double> g = dy.to_vector<double>(), py = y.to_vector<double>(),
                                pz = z.to_vector<double>();
      std::vector<double> dx(g.size()), dz(g.size());
      const auto n = static_cast<std::size_t>(x.cols());
      for (std::size_t r = 0; r < g.size(); r += n) {
        double dot = 0, total = 0;
        for (std::size_t i = r; i < r + n; ++i) {
          dot += g[i] * py[i];
          total += g[i];
        }
        for (std::size_t i = r; i < r + n; ++i) {
          dx[i] = py[i] * (g[i] - dot);
          dz[i] = g[i] - std::exp(pz[i]) * total;
        }
      }
      check_close(ops::softmax_backward(dy, y), dx, tolerance(d), 1);
      check_close(ops::log_softmax_backward(dy, z), dz, tolerance(d), 1 + 0.1 * double(n));
    }
}

TEST_CASE("tensor: softmax masks -inf and spreads NaN over its row only") {
  const float inf = INFINITY;
  const Tensor x =
      Tensor::from(std::vector<float>{-inf, 0, 0, std::nanf(""), 1, 2, -inf, -inf, -inf}, {3, 3});
  const double nan = std::nan("");
  check_close(ops::softmax(x), {0, 0.5, 0.5, nan, nan, nan, nan, nan, nan}, 1e-6);
}
