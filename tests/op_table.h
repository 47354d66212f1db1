// Every differentiable operation as rows: how to call it, its value by another road, and how close
// precisions must come. test_op_table.cpp runs each row through its drivers.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "autograd/gradcheck.h"

namespace nibble::testing {

// An argument is filled with uniform numbers of [low, high), the same in every dtype.
struct ArgSpec {
  Shape shape;
  double low = -2, high = 2;
};

// What a row's function is called with.
struct OpArgs {
  std::vector<Var> x;
  std::vector<Parameter*> p;
  Device device;
  // Constants on the row's device.
  Tensor ints(const std::vector<std::int32_t>& values, const Shape& shape) const {
    return Tensor::from(values, shape).to(device);
  }
  Tensor bytes(const std::vector<std::uint8_t>& values, const Shape& shape) const {
    return Tensor::from(values, shape).to(device);
  }
};

// The arguments of a reference, F64 and contiguous.
struct RefArgs {
  std::vector<Tensor> x, p;
};

// How an f32 result relates to the f64 one (design.md 3.11): equal after rounding, a few ulp, or
// within the error of a sum.
enum class Tier { Exact, Elementwise, Reduction };

struct OpRow {
  std::string name;     // the function's name in the header
  std::string variant;  // what sets rows of one function apart
  std::vector<ArgSpec> inputs, parameters;
  std::function<Var(const OpArgs&)> fn;
  std::function<Tensor(const RefArgs&)> reference;
  Tier tier = Tier::Reduction;
  bool straight_through = false;  // the gradient is dy by definition, not by calculus
  GradcheckOptions gradcheck = {};
};

std::vector<OpRow> elementwise_rows();
std::vector<OpRow> shape_rows();  // reductions, views and gathers
std::vector<OpRow> nn_rows();
const std::vector<OpRow>& op_table();  // all of them

// ---- naive references ----------------------------------------------------------------------

// f over the elements of tensors that broadcast.
Tensor map(const Tensor& x, const std::function<double(double)>& f);
Tensor map(const Tensor& a, const Tensor& b, const std::function<double(double, double)>& f);
// Folds `dims` of x (all when empty) with f, starting from `initial`; extents stay as 1 or go.
Tensor fold(const Tensor& x, std::vector<int> dims, bool keepdim, double initial,
            const std::function<double(double, double)>& f);
// x[..., K]·w[N, K]ᵀ + b by three loops; b may be undefined.
Tensor naive_linear(const Tensor& x, const Tensor& w, const Tensor& b = {});
// Mean of −log softmax(logits)[target] over rows whose target is not −1; 0 without any.
Tensor naive_cross_entropy(const Tensor& logits, const std::vector<std::int32_t>& targets);

}  // namespace nibble::testing
