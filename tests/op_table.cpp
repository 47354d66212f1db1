#include "op_table.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "autograd/context.h"
#include "autograd/ops.h"

namespace nibble::testing {
namespace {

using Unary = Var (*)(const Var&);
using Binary = Var (*)(const Var&, const Var&);

OpRow unary(const char* name, Unary fn, double (*reference)(double), double low = -2,
            double high = 2, Tier tier = Tier::Elementwise) {
  return {.name = name,
          .variant = "",
          .inputs = {{{3, 5}, low, high}},
          .parameters = {},
          .fn = [fn](const OpArgs& a) { return fn(a.x[0]); },
          .reference = [reference](const RefArgs& r) { return map(r.x[0], reference); },
          .tier = tier};
}

OpRow binary(const char* name, const char* variant, const Shape& a, const Shape& b, Binary fn,
             double (*reference)(double, double), double low = -2) {
  return {.name = name,
          .variant = variant,
          .inputs = {{a}, {b, low, 2}},
          .parameters = {},
          .fn = [fn](const OpArgs& v) { return fn(v.x[0], v.x[1]); },
          .reference = [reference](const RefArgs& r) { return map(r.x[0], r.x[1], reference); },
          .tier = Tier::Exact};
}

double plus(double a, double b) { return a + b; }
double minus(double a, double b) { return a - b; }
double times(double a, double b) { return a * b; }
double over(double a, double b) { return a / b; }
double larger(double a, double b) { return std::max(a, b); }
double smaller(double a, double b) { return std::min(a, b); }
double logistic(double v) { return 1 / (1 + std::exp(-v)); }
double gelu_tanh(double v) {
  return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
}
double gelu_erf(double v) { return 0.5 * v * (1 + std::erf(v / std::sqrt(2.0))); }

const std::vector<std::uint8_t> kMask{1, 0, 0, 1, 1, 0};

}  // namespace

std::vector<OpRow> elementwise_rows() {
  const Shape wide{2, 3}, row{3}, column{2, 1};
  std::vector<OpRow> rows{
      binary("add", "same shape", wide, wide, add, plus),
      binary("add", "broadcast", {2, 1, 3}, {4, 1}, add, plus),
      binary("add", "scalar", wide, {}, add, plus),
      binary("sub", "broadcast", column, row, sub, minus),
      binary("mul", "broadcast", wide, column, mul, times),
      binary("div", "broadcast", wide, row, div, over, 0.5),
      binary("maximum", "broadcast", wide, row, maximum, larger),
      binary("minimum", "broadcast", column, row, minimum, smaller),
      binary("operator+", "variables", wide, row, operator+, plus),
      binary("operator-", "variables", wide, row, operator-, minus),
      binary("operator*", "variables", wide, row, operator*, times),
      binary("operator/", "variables", wide, row, operator/, over, 0.5),
      unary("abs", abs, std::fabs, -2, 2, Tier::Exact),
      unary("exp", exp, std::exp),
      unary("log", log, std::log, 0.2, 3),
      unary("sqrt", sqrt, std::sqrt, 0.2, 3),
      unary(
          "rsqrt", rsqrt, [](double v) { return 1 / std::sqrt(v); }, 0.2, 3),
      unary(
          "square", square, [](double v) { return v * v; }, -2, 2, Tier::Exact),
      unary("sin", sin, std::sin),
      unary("cos", cos, std::cos),
      unary("tanh", tanh, std::tanh),
      unary("sigmoid", sigmoid, logistic),
      unary("erf", erf, std::erf),
      unary(
          "relu", relu, [](double v) { return std::max(v, 0.0); }, -2, 2, Tier::Exact),
      unary("silu", silu, [](double v) { return v * logistic(v); }),
  };
  const auto add_row = [&](OpRow row_of) { rows.push_back(std::move(row_of)); };
  const auto one = [&](const char* name, const char* variant, Var (*fn)(const Var&),
                       double (*reference)(double), Tier tier = Tier::Elementwise, double low = -2,
                       double high = 2) {
    OpRow r = unary(name, fn, reference, low, high, tier);
    r.variant = variant;
    add_row(r);
  };
  one(
      "affine", "", [](const Var& x) { return affine(x, 0.5, -3); },
      [](double v) { return 0.5 * v - 3; });
  one(
      "operator*", "variable, number", [](const Var& x) { return x * 0.75; },
      [](double v) { return 0.75 * v; });
  one(
      "operator*", "number, variable", [](const Var& x) { return 0.75 * x; },
      [](double v) { return 0.75 * v; });
  one(
      "operator+", "number", [](const Var& x) { return x + 1.5; },
      [](double v) { return v + 1.5; });
  one(
      "operator-", "sign", [](const Var& x) { return -x; }, [](double v) { return -v; },
      Tier::Exact);
  one(
      "clamp", "", [](const Var& x) { return clamp(x, -1, 1.25); },
      [](double v) { return std::clamp(v, -1.0, 1.25); }, Tier::Exact);
  one(
      "pow", "cube", [](const Var& x) { return pow(x, 3); }, [](double v) { return v * v * v; });
  one(
      "pow", "root", [](const Var& x) { return pow(x, 0.5); }, std::sqrt, Tier::Elementwise, 0.2,
      3);
  one(
      "pow", "zero", [](const Var& x) { return pow(x, 0); }, [](double) { return 1.0; });
  one(
      "gelu", "tanh", [](const Var& x) { return gelu(x); }, gelu_tanh);
  one(
      "gelu", "erf", [](const Var& x) { return gelu(x, ops::Gelu::Erf); }, gelu_erf);
  one(
      "cast", "there and back", [](const Var& x) { return cast(cast(x, DType::F32), x.dtype()); },
      [](double v) { return static_cast<double>(static_cast<float>(v)); }, Tier::Exact);
  rows.back().gradcheck.step = 0.25;  // linear but for the rounding of f32
  rows.back().gradcheck.relative = 1e-5;
  add_row({.name = "where",
           .variant = "broadcast",
           .inputs = {{{2, 3}}, {{3}}},
           .parameters = {},
           .fn =
               [](const OpArgs& a) {
                 return where(a.bytes(kMask, {2, 3}), a.x[0], a.x[1]);
               },
           .reference =
               [](const RefArgs& r) {
                 Tensor y = r.x[0].clone();
                 for (std::size_t i = 0; i < kMask.size(); ++i)
                   if (!kMask[i]) y.data<double>()[i] = r.x[1].data<double>()[i % 3];
                 return y;
               },
           .tier = Tier::Exact});
  add_row({.name = "dropout",
           .variant = "",
           .inputs = {{{7, 9}}},
           .parameters = {},
           .fn = [](const OpArgs& a) { return dropout(a.x[0], 0.25); },
           .reference =
               [](const RefArgs& r) {
                 const Draws16 draws(random_key("dropout"), 0);
                 Tensor y = r.x[0].clone();
                 for (std::int64_t i = 0; i < y.numel(); ++i)
                   y.data<double>()[i] *=
                       draws(static_cast<std::uint64_t>(i)) >= 16384 ? 4 / 3. : 0;
                 return y;
               },
           .tier = Tier::Elementwise});
  add_row({.name = "fake_quantize",
           .variant = "int4 groups",
           .inputs = {{{3, 32}}},
           .parameters = {},
           .fn = [](const OpArgs& a) { return fake_quantize(a.x[0], parse_spec("int4:group16")); },
           .reference =
               [](const RefArgs& r) {
                 return dequantize(quantize(r.x[0], parse_spec("int4:group16")), DType::F64);
               },
           .tier = Tier::Elementwise,
           .straight_through = true});
  return rows;
}

const std::vector<OpRow>& op_table() {
  static const std::vector<OpRow> table = [] {
    std::vector<OpRow> all;
    for (const auto& part : {elementwise_rows(), shape_rows(), nn_rows()})
      all.insert(all.end(), part.begin(), part.end());
    return all;
  }();
  return table;
}

Tensor map(const Tensor& x, const std::function<double(double)>& f) {
  Tensor y = x.clone();
  for (std::int64_t i = 0; i < y.numel(); ++i) y.data<double>()[i] = f(y.data<double>()[i]);
  return y;
}

Tensor map(const Tensor& a, const Tensor& b, const std::function<double(double, double)>& f) {
  const Shape shape = broadcast_shapes("map", a.shape(), b.shape());
  Tensor y = a.expand(shape).clone();
  const std::vector<double> other = b.expand(shape).to_vector<double>();
  for (std::size_t i = 0; i < other.size(); ++i)
    y.data<double>()[i] = f(y.data<double>()[i], other[i]);
  return y;
}

Tensor fold(const Tensor& x, std::vector<int> dims, bool keepdim, double initial,
            const std::function<double(double, double)>& f) {
  std::vector<bool> reduced(static_cast<std::size_t>(x.rank()), dims.empty());
  for (const int d : dims) reduced[static_cast<std::size_t>(x.shape().index(d))] = true;
  Shape kept, result;
  for (int d = 0; d < x.rank(); ++d) {
    const bool gone = reduced[static_cast<std::size_t>(d)];
    kept.push_back(gone ? 1 : x.size(d));
    if (!gone || keepdim) result.push_back(gone ? 1 : x.size(d));
  }
  Tensor y = Tensor::full(kept, initial, DType::F64);
  const std::vector<double> values = x.to_vector<double>();
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    std::int64_t rest = i, at = 0, stride = 1;
    for (int d = x.rank() - 1; d >= 0; --d) {
      if (!reduced[static_cast<std::size_t>(d)]) at += rest % x.size(d) * stride;
      stride *= kept[d];
      rest /= x.size(d);
    }
    y.data<double>()[at] = f(y.data<double>()[at], values[static_cast<std::size_t>(i)]);
  }
  return y.view(result);
}

Tensor naive_linear(const Tensor& x, const Tensor& w, const Tensor& b) {
  const std::int64_t m = x.rows(), k = w.size(1), n = w.size(0);
  Shape shape = x.shape();
  shape[-1] = n;
  Tensor y = Tensor::zeros(shape, DType::F64);
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = b.defined() ? b.data<double>()[j] : 0;
      for (std::int64_t c = 0; c < k; ++c)
        sum += x.data<double>()[i * k + c] * w.data<double>()[j * k + c];
      y.data<double>()[i * n + j] = sum;
    }
  return y;
}

Tensor naive_cross_entropy(const Tensor& logits, const std::vector<std::int32_t>& targets) {
  const std::int64_t classes = logits.size(-1);
  double total = 0, count = 0;
  for (std::size_t r = 0; r < targets.size(); ++r) {
    if (targets[r] < 0) continue;
    const double* row = logits.data<double>() + static_cast<std::int64_t>(r) * classes;
    double sum = 0;
    for (std::int64_t c = 0; c < classes; ++c) sum += std::exp(row[c]);
    total += std::log(sum) - row[targets[r]];
    ++count;
  }
  return Tensor::full({}, total / std::max(count, 1.0), DType::F64);
}

}  // namespace nibble::testing
