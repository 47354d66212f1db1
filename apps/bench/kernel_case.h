// What a kernel's benchmark is made of, shared by the files that make them.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "apps/bench/kernels.h"
#include "quant/qtensor.h"
#include "tensor/ops.h"

namespace nibble::bench {

inline constexpr std::int64_t kChecked = 8;  // rows that are compared with f64

struct Case {
  std::string name;
  Shape shape;
  double bytes;
  std::function<void()> run;
  std::function<double()> error;  // after a run
};

// NaN is the worst, and stays.
inline double worse(double worst, double error) {
  return std::isnan(worst) || error <= worst ? worst : error;
}

inline Tensor normal_numbers(const Shape& shape, std::uint32_t site, DType dtype, Device device) {
  return Tensor::normal(shape, 0, 1, RngKey{41, site}, DType::F32, device).to(dtype);
}
// The rows that are compared, as f64.
inline Tensor head(const Tensor& x) {
  return x.slice(0, 0, std::min(kChecked, x.size(0))).to(kCpu).to(DType::F64);
}

// How far the values of codes of x (or of its transpose) are from it, in what a code may err by.
double code_error(const QTensor& q, const Tensor& x, bool transposed);

// Updates of all parameters, the norm of their gradients, encodings of new weights.
std::vector<Case> update_cases(const KernelOptions& options);

}  // namespace nibble::bench
