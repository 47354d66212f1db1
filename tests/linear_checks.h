// What the tests of quantized linear layers share.
#pragma once

#include <cmath>
#include <string>

#include "autograd/context.h"
#include "autograd/linear.h"
#include "quant/recipe.h"
#include "tensor_testing.h"

namespace nibble::testing {

inline Tensor normal(const Shape& shape, std::uint32_t site) {
  return Tensor::normal(shape, 0, 1, RngKey{21, site});
}
inline LinearRecipe linear_recipe(const std::string& text) { return recipes::parse(text).linear; }
inline Encoding encoding(const std::string& spec) {
  return {.quant = parse_spec(spec), .source = Source::Requantize, .custom = nullptr};
}

struct Problem {
  Tensor x, w, dy;  // [M, K], [N, K], [M, N]
};
inline Problem normal_problem(std::int64_t m = 48, std::int64_t n = 64, std::int64_t k = 32) {
  return {normal({m, k}, 1), normal({n, k}, 2), normal({m, n}, 3)};
}

struct Products {
  Tensor y, dx, dw;
};
// One forward and backward pass of a layer under a recipe.
inline Products run_linear(const LinearRecipe& recipe, const Problem& p, std::uint64_t seed = 1) {
  const ForwardScope scope({.training = true, .seed = seed});
  Parameter w(p.w.clone());
  Tape tape;
  const Tape::Recording recording(tape);
  const Var x = tape.watch(p.x);
  const Var y = linear(x, w, nullptr, recipe);
  tape.backward(y, p.dy);
  return {y.tensor(), tape.gradient(x), w.grad()};
}

// 10·log10(Σx² / Σ(x − x̂)²)
inline double sqnr_db(const Tensor& exact, const Tensor& approximate) {
  const Tensor x = exact.to(DType::F64), error = ops::sub(x, approximate.to(DType::F64));
  return 10 * std::log10(ops::sum_squares(x).item() / ops::sum_squares(error).item());
}
// ‖a − b‖ / ‖a‖
inline double distance(const Tensor& a, const Tensor& b) {
  return std::pow(10, -sqnr_db(a, b) / 20);
}

}  // namespace nibble::testing
