#include "autograd/gradcheck.h"

#include <cmath>
#include <limits>

#include "tensor/ops.h"
#include "tensor/rng.h"

namespace nibble {
namespace {

constexpr const char* kOp = "gradcheck";
using Function = std::function<Var(const std::vector<Var>&)>;
using Vector = std::vector<double>;

void check_source(const Tensor& x, const std::string& name) {
  NIBBLE_CHECK(x.dtype() == DType::F64 && x.device().is_cpu(), kOp,
               "{} is {}, expected f64 on cpu: differences of narrower numbers show rounding", name,
               describe(x));
}

// Something whose elements are moved: its values are x, and moved() must follow every change.
struct Source {
  std::string name;
  Tensor x;
  Parameter* parameter;  // null for inputs
  void set(std::int64_t element, double value) {
    x.data<double>()[element] = value;
    x.bump_version();
    if (parameter) parameter->bump_version();
  }
};

class Checker {
 public:
  Checker(const Function& fn, const std::vector<Tensor>& inputs,
          const std::vector<Parameter*>& parameters, const GradcheckOptions& options)
      : fn_(fn), options_(options) {
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const std::string name = fmt::format("input {}", i);
      check_source(inputs[i], name);
      inputs_.push_back(inputs[i].clone());
      sources_.push_back({name, inputs_.back(), nullptr});
    }
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      Parameter& p = *parameters[i];
      const std::string name =
          p.name.empty() ? fmt::format("parameter {}", i) : "parameter " + p.name;
      check_source(p.storage(), name);
      NIBBLE_CHECK(p.storage().is_contiguous(), kOp, "{} is not contiguous", name);
      sources_.push_back({name, p.storage(), &p});
    }
    NIBBLE_CHECK(!sources_.empty(), kOp, "got no inputs and no parameters to differentiate by");
  }

  GradcheckResult run() {
    project(forward());
    std::vector<std::vector<Vector>> analytic;  // [projection][source][element]
    for (const Tensor& direction : directions_) analytic.push_back(backward(direction));
    for (std::size_t s = 0; s < sources_.size(); ++s) {
      const std::int64_t count = sources_[s].x.numel();
      for (std::int64_t e = 0; e < count; ++e) {
        const Vector numeric = difference(sources_[s], e);
        for (std::size_t p = 0; p < directions_.size(); ++p)
          compare(sources_[s], e, p, analytic[p][s][static_cast<std::size_t>(e)], numeric[p]);
      }
    }
    return worst_;
  }

 private:
  Tensor forward() const {
    const NoGrad no_grad;
    const Var y = fn_({inputs_.begin(), inputs_.end()});
    NIBBLE_CHECK(is_float(y.dtype()), kOp, "the output is {}, expected floats",
                 describe(y.tensor()));
    return y.tensor();
  }

  // The directions in which the output is read: its axes, or random ones.
  void project(const Tensor& y) {
    const std::int64_t count = options_.projections > 0 ? options_.projections : y.numel();
    for (std::int64_t i = 0; i < count; ++i) {
      if (options_.projections > 0) {
        const RngKey key{options_.seed, static_cast<std::uint32_t>(i)};
        directions_.push_back(Tensor::uniform(y.shape(), -1, 1, key, DType::F64));
      } else {
        directions_.push_back(Tensor::zeros(y.shape(), DType::F64));
        directions_.back().data<double>()[i] = 1;
      }
    }
  }

  std::vector<Vector> backward(const Tensor& direction) {
    for (const Source& s : sources_)
      if (s.parameter) s.parameter->set_has_grad(false);
    Tape tape;
    const Tape::Recording recording(tape);
    std::vector<Var> watched;
    for (const Tensor& x : inputs_) watched.push_back(tape.watch(x));
    const Var y = fn_(watched);
    if (y.tracked()) tape.backward(y, direction.to(y.dtype()));
    std::vector<Vector> gradients;
    for (std::size_t s = 0; s < sources_.size(); ++s) {
      Parameter* p = sources_[s].parameter;
      Tensor g;
      if (!p)
        g = tape.gradient(watched[s]);
      else if (p->has_grad())
        g = p->grad();
      gradients.push_back(g.defined() ? g.to_vector<double>()
                                      : Vector(static_cast<std::size_t>(sources_[s].x.numel())));
      if (p) p->set_has_grad(false);
    }
    return gradients;
  }

  // Central differences of all projections of the output along one element.
  Vector difference(Source& source, std::int64_t element) {
    const double x = source.x.data<double>()[element], h = options_.step;
    source.set(element, x + h);
    const Vector above = projected(forward());
    source.set(element, x - h);
    const Vector below = projected(forward());
    source.set(element, x);
    Vector slope(above.size());
    // The step that was taken, after rounding.
    const double distance = (x + h) - (x - h);
    for (std::size_t i = 0; i < slope.size(); ++i) slope[i] = (above[i] - below[i]) / distance;
    return slope;
  }

  Vector projected(const Tensor& y) const {
    Vector values = y.to_vector<double>();
    if (options_.projections == 0) return values;
    Vector sums;
    for (const Tensor& direction : directions_) {
      const double* d = direction.data<double>();
      double sum = 0;
      for (std::size_t i = 0; i < values.size(); ++i) sum += values[i] * d[i];
      sums.push_back(sum);
    }
    return sums;
  }

  void compare(const Source& source, std::int64_t element, std::size_t output, double analytic,
               double numeric) {
    const double larger = std::max(std::abs(analytic), std::abs(numeric));
    double excess = std::abs(analytic - numeric) / (options_.absolute + options_.relative * larger);
    if (!std::isfinite(excess)) excess = std::numeric_limits<double>::infinity();
    if (!worst_.input.empty() && excess <= worst_.excess) return;
    worst_ = {.ok = excess <= 1,
              .analytic = analytic,
              .numeric = numeric,
              .excess = excess,
              .input = source.name,
              .element = element,
              .output = static_cast<std::int64_t>(output)};
  }

  const Function& fn_;
  const GradcheckOptions& options_;
  std::vector<Tensor> inputs_;
  std::vector<Source> sources_;
  std::vector<Tensor> directions_;
  GradcheckResult worst_;
};

}  // namespace

std::string GradcheckResult::message() const {
  return fmt::format("d output[{}] / d {}[{}]: analytic {}, numeric {}, {:.3g} of the tolerance",
                     output, input, element, analytic, numeric, excess);
}

GradcheckResult gradcheck(const Function& fn, const std::vector<Tensor>& inputs,
                          const std::vector<Parameter*>& parameters,
                          const GradcheckOptions& options) {
  NIBBLE_CHECK(options.step > 0 && options.projections >= 0, kOp,
               "got step {} and {} projections, expected a positive step", options.step,
               options.projections);
  return Checker(fn, inputs, parameters, options).run();
}

}  // namespace nibble
