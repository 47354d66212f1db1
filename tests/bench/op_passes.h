// A row of the op table at benchmark shapes, run on any device and compared with the CPU's f64.
#pragma once

#include <algorithm>
#include <cmath>
#include <deque>
#include <vector>

#include "op_cases.h"
#include "tensor/ops.h"
#include "tensor/thread_pool.h"

namespace nibble::testing {

// One set of arguments.
struct Arguments {
  std::vector<Tensor> x;
  std::deque<Parameter> parameters;

  // All numbers are bf16's, so that one reference serves every dtype; `twist` sets buffers apart.
  Arguments(const BenchCase& c, DType dtype, Device device, std::uint32_t twist = 0) {
    std::uint32_t site = 100 * (twist + 1);
    const auto make = [&](const ArgSpec& a) {
      return Tensor::uniform(a.shape, a.low, a.high, RngKey{11, ++site}, DType::BF16, device)
          .to(dtype);
    };
    for (const ArgSpec& a : c.inputs) x.push_back(make(a));
    for (const ArgSpec& a : c.parameters)
      parameters.emplace_back(make(a)).name = fmt::format("p{}", parameters.size() - 1);
  }
  OpArgs with(std::vector<Var> inputs, Device device) {
    OpArgs args{std::move(inputs), {}, device};
    for (Parameter& p : parameters) args.p.push_back(&p);
    return args;
  }
  double bytes() {
    double sum = 0;
    for (const Tensor& t : x) sum += static_cast<double>(t.bytes());
    for (Parameter& p : parameters) sum += static_cast<double>(p.storage().bytes());
    return sum;
  }
};

inline Tensor forward(const BenchCase& c, Arguments& a, Device device) {
  std::vector<Var> inputs;
  for (const Tensor& x : a.x) inputs.emplace_back(x);
  return c.fn(a.with(std::move(inputs), device)).tensor();
}

// The value, then the gradient of every input and parameter.
inline std::vector<Tensor> both_passes(const BenchCase& c, Arguments& a, const Tensor& dy,
                                       Device device) {
  Tape tape;
  const Tape::Recording recording(tape);
  std::vector<Var> watched;
  for (const Tensor& x : a.x) watched.push_back(tape.watch(x));
  for (Parameter& p : a.parameters) p.set_has_grad(false);
  const Var y = c.fn(a.with(watched, device));
  tape.backward(y, dy);
  std::vector<Tensor> results{y.tensor()};
  for (const Var& x : watched) results.push_back(tape.gradient(x));
  for (Parameter& p : a.parameters) results.push_back(p.has_grad() ? p.grad() : Tensor());
  return results;
}

inline Tensor gradient_like(const Tensor& y, DType dtype, Device device) {
  return Tensor::uniform(y.shape(), -1, 1, RngKey{3, 9}, DType::BF16, device).to(dtype);
}

// The worst |got − expected| over allowed · (|expected| + scale): 1 for values of elementwise rows
// (few ulp), the largest |expected| for sums, whose order is free.
inline double worst_error(const Tensor& got, const Tensor& expected, double allowed, bool few_ulp) {
  if (got.shape() != expected.shape()) return INFINITY;
  const Tensor near = ops::contiguous(got).to(kCpu).to(DType::F64), far = ops::contiguous(expected);
  const auto* g = near.data<double>();
  const auto* e = far.data<double>();
  // The largest f(i), NaN counting as infinite; chunks in parallel, because tensors are large.
  const auto largest = [n = near.numel()](auto&& f) {
    constexpr std::int64_t kGrain = 1 << 16;
    std::vector<double> parts(static_cast<std::size_t>((n + kGrain - 1) / kGrain), 0.0);
    parallel_for(n, kGrain, [&](std::int64_t begin, std::int64_t end) {
      double& part = parts[static_cast<std::size_t>(begin / kGrain)];
      for (std::int64_t i = begin; i < end; ++i)
        if (const double v = f(i); !(v <= part)) part = std::isnan(v) ? INFINITY : v;
    });
    return parts.empty() ? 0.0 : std::ranges::max(parts);
  };
  const double scale = few_ulp ? 1 : largest([&](std::int64_t i) { return std::fabs(e[i]); });
  return largest([&](std::int64_t i) {
    return g[i] == e[i] ? 0.0 : std::fabs(g[i] - e[i]) / (allowed * (std::fabs(e[i]) + scale));
  });
}

// The largest of worst_error over a row's value and gradients; above 1 it is wrong.
inline double check(const OpRow& row, DType dtype, const std::vector<Tensor>& got,
                    const std::vector<Tensor>& expected) {
  const bool narrow = dtype == DType::BF16;
  double worst = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (got[i].defined() != expected[i].defined()) return INFINITY;
    if (!got[i].defined()) continue;
    const bool few_ulp = i == 0 && row.tier != Tier::Reduction;
    const double allowed = narrow ? 1.0 / 64 : few_ulp ? 2e-6 : 2e-5;
    worst = std::max(worst, worst_error(got[i], expected[i], allowed, few_ulp));
  }
  return worst;
}

}  // namespace nibble::testing
