#include "tensor/scalar_math.h"
#include "tests/tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

template <class F>
std::vector<double> mapped(const Tensor& x, F f) {
  std::vector<double> v = x.to_vector<double>();
  for (double& e : v) e = f(e);
  return v;
}
template <class F>
std::vector<double> mapped(const Tensor& a, const Tensor& b, F f) {
  std::vector<double> u = a.to_vector<double>();
  const std::vector<double> v = b.to_vector<double>();
  for (std::size_t i = 0; i < u.size(); ++i) u[i] = f(u[i], v[i]);
  return u;
}

double gelu_erf_ref(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }
double gelu_tanh_ref(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
}
double silu_ref(double x) { return x / (1 + std::exp(-x)); }
double slope(double (*f)(double), double x) { return (f(x + 1e-5) - f(x - 1e-5)) / 2e-5; }

struct Unary {
  const char* name;
  Tensor (*op)(const Tensor&);
  double (*ref)(double);
  double low = -4, high = 4;
};
const std::vector<Unary> kUnaries{
    {"neg", ops::neg, [](double x) { return -x; }},
    {"abs", ops::abs, [](double x) { return std::fabs(x); }},
    {"sign", ops::sign, [](double x) { return x > 0   ? 1.0
                                              : x < 0 ? -1.0
                                                      : 0.0; }},
    {"exp", ops::exp, [](double x) { return std::exp(x); }, -20, 20},
    {"log", ops::log, [](double x) { return std::log(x); }, 0.01, 9},
    {"sqrt", ops::sqrt, [](double x) { return std::sqrt(x); }, 0, 9},
    {"rsqrt", ops::rsqrt, [](double x) { return 1 / std::sqrt(x); }, 0.01, 9},
    {"square", ops::square, [](double x) { return x * x; }},
    {"sin", ops::sin, [](double x) { return std::sin(x); }},
    {"cos", ops::cos, [](double x) { return std::cos(x); }},
    {"tanh", ops::tanh, [](double x) { return std::tanh(x); }},
    {"sigmoid", ops::sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }, -20, 20},
    {"erf", ops::erf, [](double x) { return std::erf(x); }},
    {"relu", ops::relu, [](double x) { return x > 0 ? x : 0; }},
    {"silu", ops::silu, silu_ref},
    {"gelu tanh", [](const Tensor& x) { return ops::gelu(x); }, gelu_tanh_ref},
    {"gelu erf", [](const Tensor& x) { return ops::gelu(x, ops::Gelu::Erf); }, gelu_erf_ref},
    {"clamp", [](const Tensor& x) { return ops::clamp(x, -0.5, 1.5); },
     [](double x) { return std::fmin(std::fmax(x, -0.5), 1.5); }},
    {"pow", [](const Tensor& x) { return ops::pow(x, 1.5); },
     [](double x) { return std::pow(x, 1.5); }, 0, 5},
    {"affine", [](const Tensor& x) { return ops::affine(x, 2.5, -1.25); },
     [](double x) { return 2.5 * x - 1.25; }},
};

struct Binary {
  const char* name;
  Tensor (*op)(const Tensor&, const Tensor&);
  double (*ref)(double, double);
};
const std::vector<Binary> kBinaries{
    {"add", ops::add, [](double a, double b) { return a + b; }},
    {"sub", ops::sub, [](double a, double b) { return a - b; }},
    {"mul", ops::mul, [](double a, double b) { return a * b; }},
    {"div", ops::div, [](double a, double b) { return a / b; }},
    {"maximum", ops::maximum, [](double a, double b) { return a > b ? a : b; }},
    {"minimum", ops::minimum, [](double a, double b) { return a < b ? a : b; }},
    {"less", ops::less, [](double a, double b) { return a < b ? 1.0 : 0.0; }},
    {"equal", ops::equal, [](double a, double b) { return a == b ? 1.0 : 0.0; }},
};

template <class F, class G>
double worst_ulp(F f, G exact, double low, double high) {
  double worst = 0;
  for (std::uint64_t bits = 0; bits <= 0xffffffffu; bits += 4099) {
    const auto x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (!(x >= low && x <= high)) continue;
    const double e = exact(static_cast<double>(x));
    int exponent = 0;
    std::frexp(static_cast<float>(e), &exponent);
    worst = std::max(worst, std::fabs(f(x) - e) / std::ldexp(1.0, std::max(exponent, -125) - 24));
  }
  return worst;
}

}  // namespace

TEST_CASE("tensor: unary ops match double precision") {
  for (const Unary& u : kUnaries)
    for (const DType d : kFloats) {
      CAPTURE(u.name);
      CAPTURE(d);
      const Tensor wide = random({9, 5, 7}, d, u.low, u.high);
      for (const Tensor& x :
           {wide, wide.select(0, 3).select(0, 1).select(0, 2), wide.transpose(0, 2),
            wide.slice(2, 1, 4), wide.slice(1, 0, 0), random({16384 + 4099}, d, u.low, u.high)}) {
        const Tensor y = u.op(x);
        CHECK(y.shape() == x.shape());
        CHECK(y.dtype() == d);
        CHECK(y.is_contiguous());
        check_close(y, mapped(x, u.ref), tolerance(d));
      }
    }
}

TEST_CASE("tensor: binary ops broadcast and take any strides") {
  const std::vector<std::pair<Shape, Shape>> shapes{
      {{}, {}},         {{3, 5}, {3, 5}},    {{3, 5}, {5}},
      {{3, 1}, {1, 5}}, {{4, 1, 7}, {3, 1}}, {{2, 1, 3, 1}, {4, 1, 5}},
      {{0, 3}, {3}},    {{1}, {70, 301}},    {{70, 301}, {70, 1}}};
  for (const Binary& op : kBinaries)
    for (const DType d : kFloats)
      for (const auto& [sa, sb] : shapes) {
        CAPTURE(op.name);
        CAPTURE(d);
        CAPTURE(sa);
        CAPTURE(sb);
        const Tensor a = random(sa, d, 0.5, 2), b = random(sb, d, 0.5, 2, 2);
        const Shape shape = broadcast_shapes("test", sa, sb);
        const Tensor y = op.op(a, b);
        CHECK(y.shape() == shape);
        check_close(y, mapped(a.expand(shape), b.expand(shape), op.ref), tolerance(d));
      }
  const Tensor a = random({6, 4, 5}, DType::F32), b = random({5, 4, 6}, DType::F32, -3, 3, 2);
  for (const Binary& op : kBinaries)
    check_close(op.op(a, b.transpose(0, 2)), mapped(a, b.transpose(0, 2), op.ref), 2e-6);
}

TEST_CASE("tensor: equal and extremes see equal values, NaN and infinities") {
  const float nan = std::nanf(""), inf = INFINITY;
  const Tensor a = Tensor::from(std::vector<float>{1, nan, 2, -inf, nan}, {5});
  const Tensor b = Tensor::from(std::vector<float>{1, 0, nan, inf, nan}, {5});
  CHECK(ops::equal(a, b).to_vector<std::uint8_t>() == std::vector<std::uint8_t>{1, 0, 0, 0, 0});
  CHECK(ops::less(a, b).to_vector<std::uint8_t>() == std::vector<std::uint8_t>{0, 0, 0, 1, 0});
  check_close(ops::maximum(a, b), {1, nan, nan, inf, nan}, 0);
  check_close(ops::minimum(a, b), {1, nan, nan, -inf, nan}, 0);
  check_close(ops::relu(a), {1, nan, 2, 0, nan}, 0);
  check_close(ops::clamp(a, -1, 1), {1, nan, 1, -1, nan}, 0);
  check_close(ops::sign(a), {1, nan, 1, -1, nan}, 0);
}

TEST_CASE("tensor: where selects with a broadcast mask") {
  for (const DType d : kFloats) {
    const Tensor mask = Tensor::from(std::vector<std::uint8_t>{1, 0, 2}, {3, 1});
    const Tensor a = random({2, 3, 4}, d), b = random({4}, d, -3, 3, 2);
    std::vector<double> expected = a.to_vector<double>();
    const std::vector<double> other = b.to_vector<double>();
    for (std::size_t i = 0; i < expected.size(); ++i)
      if (i / 4 % 3 == 1) expected[i] = other[i % 4];
    check_close(ops::where(mask, a, b), expected, 0);
  }
}

TEST_CASE("tensor: axpy accumulates in place, also narrow into wide") {
  for (const DType wide : kFloats)
    for (const DType narrow : kFloats) {
      Tensor y = random({33, 5}, wide);
      const Tensor x = random({5, 33}, narrow, -3, 3, 2).t();
      const std::vector<double> expected =
          mapped(y, x, [](double a, double b) { return a + 0.75 * b; });
      if (bytes_of(narrow, 1) > bytes_of(wide, 1)) {
        CHECK(error_of([&] {
                ops::axpy(y, x, 0.75);
              }).starts_with("axpy: the source is wider than its destination"));
        continue;
      }
      const std::uint32_t version = y.version();
      ops::axpy(y, x, 0.75);
      CHECK(y.version() == version + 1);
      check_close(y, expected, tolerance(wide));
    }
}

TEST_CASE("tensor: activation gradients match slopes") {
  for (const DType d : kFloats) {
    const Tensor x = random({11, 13}, d, -5, 5), dy = random({11, 13}, d, -2, 2, 2);
    const double tol = d == DType::F64 ? 1e-8 : tolerance(d);
    const auto expected = [&](double (*f)(double)) {
      return mapped(dy, x, [f](double g, double v) { return g * slope(f, v); });
    };
    check_close(ops::silu_backward(dy, x), expected(silu_ref), tol);
    check_close(ops::gelu_backward(dy, x, ops::Gelu::Tanh), expected(gelu_tanh_ref), tol);
    check_close(ops::gelu_backward(dy, x, ops::Gelu::Erf), expected(gelu_erf_ref), tol);
  }
  const Tensor far = Tensor::from(std::vector<float>{-1e30f, 1e30f, -200, 200}, {4});
  const Tensor one = Tensor::full({4}, 1);
  for (const ops::Gelu kind : {ops::Gelu::Tanh, ops::Gelu::Erf}) {
    check_close(ops::gelu(far, kind), {0, 1e30, 0, 200}, 1e-6);
    check_close(ops::gelu_backward(one, far, kind), {0, 1, 0, 1}, 1e-6);
  }
}

TEST_CASE("tensor: dropout keeps by the element's 16-bit draw") {
  const std::uint32_t step = 9;
  const RngKey key{11, 12, &step};
  const Draws16 draws(key, step);
  for (const DType d : kFloats)
    for (const std::int64_t n : {1, 13, 16384 + 77}) {
      const Tensor x = random({n}, d);
      std::vector<double> expected = x.to_vector<double>();
      for (std::size_t i = 0; i < expected.size(); ++i)
        expected[i] = draws(i) >= 19661 ? expected[i] / (1 - 0.3) : 0;  // round(0.3 · 65536)
      check_close(ops::dropout(x, 0.3, key), expected, tolerance(d));
    }
  const Tensor x = random({100}, DType::F32);
  CHECK(same_bits(ops::dropout(x, 0, key), x));
  CHECK(same_bits(ops::dropout(x, 1, key), Tensor::zeros({100})));
}

TEST_CASE("tensor: f32 exp, tanh, erf and sigmoid stay within a few ulp of double") {
  const auto exp = [](double x) { return std::exp(x); };
  CHECK(worst_ulp([](float x) { return scalar::exp(x); }, exp, -110, 88.7) < 1.0);
  CHECK(worst_ulp([](float x) { return scalar::tanh(x); }, [](double x) { return std::tanh(x); },
                  -1e30, 1e30) < 2.6);
  CHECK(worst_ulp([](float x) { return scalar::erf(x); }, [](double x) { return std::erf(x); },
                  -1e30, 1e30) < 1.2);
  CHECK(worst_ulp([](float x) { return scalar::sigmoid(x); },
                  [](double x) { return 1 / (1 + std::exp(-x)); }, -87, 1e30) < 2.6);
  CHECK(scalar::exp(-INFINITY) == 0.0f);
  CHECK(scalar::exp(INFINITY) == INFINITY);
  CHECK(scalar::exp(100.0f) == INFINITY);
  CHECK(scalar::tanh(-INFINITY) == -1.0f);
  CHECK(scalar::erf(INFINITY) == 1.0f);
  CHECK(std::signbit(scalar::tanh(-0.0f)));
  const float nan = std::nanf("");
  for (const float y : {scalar::exp(nan), scalar::tanh(nan), scalar::erf(nan), scalar::sigmoid(nan),
                        scalar::gelu_tanh(nan), scalar::gelu_erf(nan)})
    CHECK(std::isnan(y));
}
