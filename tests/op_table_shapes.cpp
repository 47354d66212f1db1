// Rows of reductions, views and gathers.
#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/ops.h"
#include "op_table.h"

namespace nibble::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

OpRow one(const char* name, const char* variant, const Shape& shape, Var (*fn)(const Var&),
          Tensor (*reference)(const Tensor&), Tier tier = Tier::Reduction) {
  return {.name = name,
          .variant = variant,
          .inputs = {{shape}},
          .parameters = {},
          .fn = [fn](const OpArgs& a) { return fn(a.x[0]); },
          .reference = [reference](const RefArgs& r) { return reference(r.x[0]); },
          .tier = tier};
}

double plus(double a, double b) { return a + b; }
double larger(double a, double b) { return std::max(a, b); }
double smaller(double a, double b) { return std::min(a, b); }

Tensor naive_softmax(const Tensor& x) {
  const Tensor e = map(x, [](double v) { return std::exp(v); });
  return map(e, fold(e, {-1}, true, 0, plus), [](double a, double b) { return a / b; });
}

const std::vector<std::int32_t> kIndex{2, 0, 4, 2, 1, 3};

std::vector<OpRow> reductions() {
  return {
      one(
          "sum", "all", {2, 3, 4}, [](const Var& x) { return sum(x); },
          [](const Tensor& x) { return fold(x, {}, false, 0, plus); }),
      one(
          "sum", "dims 0 and 2, kept", {2, 3, 4},
          [](const Var& x) {
            return sum(x, {0, -1}, true);
          },
          [](const Tensor& x) {
            return fold(x, {0, 2}, true, 0, plus);
          }),
      one(
          "mean", "dim 1", {2, 3, 4}, [](const Var& x) { return mean(x, {1}); },
          [](const Tensor& x) {
            return map(fold(x, {1}, false, 0, plus), [](double v) { return v / 3; });
          }),
      one(
          "max", "dim 1", {2, 3, 4}, [](const Var& x) { return max(x, {1}); },
          [](const Tensor& x) { return fold(x, {1}, false, -kInfinity, larger); }, Tier::Exact),
      one(
          "max", "all", {2, 3}, [](const Var& x) { return max(x); },
          [](const Tensor& x) { return fold(x, {}, false, -kInfinity, larger); }, Tier::Exact),
      one(
          "min", "dim -1, kept", {2, 3, 4}, [](const Var& x) { return min(x, {-1}, true); },
          [](const Tensor& x) { return fold(x, {2}, true, kInfinity, smaller); }, Tier::Exact),
      one(
          "cumsum", "dim 0", {4, 3}, [](const Var& x) { return cumsum(x, 0); },
          [](const Tensor& x) {
            Tensor y = x.clone();
            for (int i = 3; i < 12; ++i) y.data<double>()[i] += y.data<double>()[i - 3];
            return y;
          }),
      one("softmax", "", {3, 5}, softmax, naive_softmax),
      one("log_softmax", "", {2, 2, 4}, log_softmax,
          [](const Tensor& x) {
            return map(naive_softmax(x), [](double v) { return std::log(v); });
          }),
  };
}

std::vector<OpRow> views() {
  return {
      one(
          "reshape", "", {2, 6},
          [](const Var& x) {
            return reshape(x, {3, -1});
          },
          [](const Tensor& x) {
            return x.view({3, 4});
          },
          Tier::Exact),
      one(
          "reshape", "of a transpose", {2, 3},
          [](const Var& x) { return reshape(transpose(x, 0, 1), {6}); },
          [](const Tensor& x) { return x.t().clone().view({6}); }, Tier::Exact),
      one(
          "transpose", "", {2, 3, 4}, [](const Var& x) { return transpose(x, 0, -1); },
          [](const Tensor& x) { return x.transpose(0, 2).clone(); }, Tier::Exact),
      one(
          "permute", "cycle", {2, 3, 4},
          [](const Var& x) {
            return permute(x, {2, 0, 1});
          },
          [](const Tensor& x) {
            return x.permute({2, 0, 1}).clone();
          },
          Tier::Exact),
      one(
          "permute", "four", {2, 3, 2, 2},
          [](const Var& x) {
            return permute(x, {-1, 0, 2, 1});
          },
          [](const Tensor& x) {
            return x.permute({3, 0, 2, 1}).clone();
          },
          Tier::Exact),
      one(
          "slice", "", {4, 3}, [](const Var& x) { return slice(x, 0, 1, 3); },
          [](const Tensor& x) { return x.slice(0, 1, 3).clone(); }, Tier::Exact),
      one(
          "select", "", {2, 3, 2}, [](const Var& x) { return select(x, 1, 2); },
          [](const Tensor& x) { return x.select(1, 2).clone(); }, Tier::Exact),
      one(
          "expand", "", {3, 1},
          [](const Var& x) {
            return expand(x, {2, 3, 4});
          },
          [](const Tensor& x) {
            return x.expand({2, 3, 4}).clone();
          },
          Tier::Exact),
      one(
          "squeeze", "", {3, 1, 2}, [](const Var& x) { return squeeze(x, 1); },
          [](const Tensor& x) {
            return x.view({3, 2});
          },
          Tier::Exact),
      one(
          "unsqueeze", "", {3, 2}, [](const Var& x) { return unsqueeze(x, -1); },
          [](const Tensor& x) {
            return x.view({3, 2, 1});
          },
          Tier::Exact),
  };
}

std::vector<OpRow> gathers() {
  return {
      {.name = "concat",
       .variant = "ten parts",
       .inputs = {{{2, 3}}, {{2, 1}}},
       .parameters = {},
       .fn =
           [](const OpArgs& a) {
             std::vector<Var> parts(9, a.x[0]);
             parts.push_back(a.x[1]);
             return concat(parts, 1);
           },
       .reference =
           [](const RefArgs& r) {
             Tensor y = Tensor::empty({2, 28}, DType::F64);
             for (int i = 0; i < 9; ++i) y.slice(1, 3 * i, 3 * i + 3).copy_from(r.x[0]);
             y.slice(1, 27, 28).copy_from(r.x[1]);
             return y;
           },
       .tier = Tier::Exact},
      {.name = "stack",
       .variant = "",
       .inputs = {{{2, 3}}, {{2, 3}}},
       .parameters = {},
       .fn =
           [](const OpArgs& a) {
             return stack({a.x[0], a.x[1], a.x[0]}, -1);
           },
       .reference =
           [](const RefArgs& r) {
             Tensor y = Tensor::empty({2, 3, 3}, DType::F64);
             for (int i = 0; i < 3; ++i) y.select(2, i).copy_from(r.x[i == 1 ? 1 : 0]);
             return y;
           },
       .tier = Tier::Exact},
      {.name = "take_along_last",
       .variant = "",
       .inputs = {{{2, 3, 5}}},
       .parameters = {},
       .fn =
           [](const OpArgs& a) {
             return take_along_last(a.x[0], a.ints(kIndex, {2, 3}));
           },
       .reference =
           [](const RefArgs& r) {
             Tensor y = Tensor::empty({2, 3}, DType::F64);
             for (std::size_t i = 0; i < kIndex.size(); ++i)
               y.data<double>()[i] = r.x[0].data<double>()[i * 5 + std::size_t(kIndex[i])];
             return y;
           },
       .tier = Tier::Exact},
      {.name = "embedding",
       .variant = "repeated ids",
       .inputs = {},
       .parameters = {{{5, 3}}},
       .fn =
           [](const OpArgs& a) {
             return embedding(a.ints(kIndex, {2, 3}), *a.p[0]);
           },
       .reference =
           [](const RefArgs& r) {
             Tensor y = Tensor::empty({2, 3, 3}, DType::F64);
             for (std::size_t i = 0; i < 18; ++i)
               y.data<double>()[i] = r.p[0].data<double>()[kIndex[i / 3] * 3 + std::int32_t(i % 3)];
             return y;
           },
       .tier = Tier::Exact},
  };
}

}  // namespace

std::vector<OpRow> shape_rows() {
  std::vector<OpRow> rows = reductions();
  for (const auto& part : {views(), gathers()}) rows.insert(rows.end(), part.begin(), part.end());
  return rows;
}

}  // namespace nibble::testing
