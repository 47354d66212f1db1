// One forward and backward pass of a row of the table of operations, in several layouts: what the
// drivers of both devices are made of.
#pragma once

#include <fmt/ranges.h>

#include <deque>
#include <limits>
#include <vector>

#include "autograd/context.h"
#include "tensor/memory_guard.h"
#include "tests/op_table.h"
#include "tests/tensor_testing.h"

namespace nibble::testing {

inline constexpr double kPoison = std::numeric_limits<double>::quiet_NaN();
inline constexpr std::int64_t kMargin = 5;

enum class Layout { Dense, Poisoned, Strided };

// The values of `x` laid out: in the middle of NaNs, or every other element of a wider tensor.
inline Tensor laid_out(const Tensor& x, Layout layout) {
  if (layout == Layout::Dense || x.device().is_meta()) return x;
  if (layout == Layout::Poisoned) {
    const Tensor wide = Tensor::full({x.numel() + 2 * kMargin}, kPoison, x.dtype(), x.device());
    const Tensor y = wide.slice(0, kMargin, kMargin + x.numel()).view(x.shape());
    Tensor(y).copy_from(x);
    return y;
  }
  Shape shape = x.shape();
  shape.push_back(2);
  const Tensor y = Tensor::full(shape, kPoison, x.dtype(), x.device()).select(-1, 1);
  Tensor(y).copy_from(x);
  return y;
}

struct Result {
  Tensor y;
  std::vector<Tensor> dx, dp;
};

struct Setup {
  DType dtype = DType::F32;
  Device device = kCpu;
  Layout layout = Layout::Dense;
  DType rounded_to = DType::F32;  // all inputs hold numbers of this dtype
};

// One forward and backward pass of a row.
class Pass {
 public:
  Pass(const OpRow& row, const Setup& setup) : row_(row), setup_(setup) {
    std::uint32_t site = 100;
    for (const ArgSpec& a : row.inputs) x_.push_back(laid_out(make(a, ++site), setup.layout));
    // Norm and linear kernels take dense parameters; only their surroundings vary.
    const Layout around = setup.layout == Layout::Poisoned ? Layout::Poisoned : Layout::Dense;
    for (const ArgSpec& a : row.parameters) {
      Parameter& p = parameters_.emplace_back(laid_out(make(a, ++site), around));
      p.name = fmt::format("p{}", parameters_.size() - 1);
      const DType wide = setup.dtype == DType::F64 ? DType::F64 : DType::F32;
      p.set_grad_buffer(laid_out(Tensor::zeros(a.shape, wide, setup.device), around));
    }
  }

  std::vector<Tensor>& x() { return x_; }
  std::vector<Parameter*> parameters() {
    std::vector<Parameter*> all;
    for (Parameter& p : parameters_) all.push_back(&p);
    return all;
  }
  Var call(const std::vector<Var>& x) { return row_.fn({x, parameters(), setup_.device}); }

  Result run() {
    Tape tape;
    const Tape::Recording recording(tape);
    std::vector<Var> watched;
    for (const Tensor& x : x_) watched.push_back(tape.watch(x));
    const Var y = call(watched);
    Result result{y.tensor(), {}, {}};
    const Tensor dy = Tensor::uniform(y.shape(), -1, 1, RngKey{3, 9}).to(DType::BF16);
    tape.backward(y, dy.to(y.dtype()).to(setup_.device));
    for (const Var& x : watched) result.dx.push_back(tape.gradient(x));
    for (Parameter& p : parameters_) result.dp.push_back(p.has_grad() ? p.grad() : Tensor());
    return result;
  }

 private:
  Tensor make(const ArgSpec& a, std::uint32_t site) const {
    const Tensor values = Tensor::uniform(a.shape, a.low, a.high, RngKey{11, site});
    return values.to(setup_.rounded_to).to(setup_.dtype).to(setup_.device);
  }

  const OpRow& row_;
  Setup setup_;
  std::vector<Tensor> x_;
  std::deque<Parameter> parameters_;
};

inline std::vector<Tensor> all_of(const Result& r) {
  std::vector<Tensor> all{r.y};
  all.insert(all.end(), r.dx.begin(), r.dx.end());
  all.insert(all.end(), r.dp.begin(), r.dp.end());
  return all;
}

struct Guarded {
  std::vector<Tensor> results;  // all_of
  std::string damage;           // "" when every margin is whole
};

// A pass whose buffers on the row's device, inputs and parameters too, lie between guard bytes.
inline Guarded run_guarded(const OpRow& row, const Setup& setup) {
  const MemoryGuard guard(setup.device);
  Guarded out;
  out.results = all_of(Pass(row, setup).run());
  out.damage = fmt::format("{}", fmt::join(guard.damage(), "\n"));
  return out;
}

// Runs f(row) for every row, in a context where dropout draws.
template <class F>
void for_each_row(F&& f) {
  const ForwardScope scope({.training = true, .seed = 5});
  for (const OpRow& row : op_table()) {
    CAPTURE(row.name);
    CAPTURE(row.variant);
    f(row);
  }
}

}  // namespace nibble::testing
