// Gradient checking: the whole Jacobian of a function against central differences, in f64.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "autograd/tape.h"

namespace nibble {

struct GradcheckOptions {
  double step = 1e-6;  // h of (f(x + h) − f(x − h)) / 2h
  // |analytic − numeric| ≤ absolute + relative · max(|analytic|, |numeric|). The defaults leave
  // room for the rounding of differences, about 1e-16 · |f| / step, and their curvature.
  double relative = 1e-6, absolute = 1e-8;
  // 0: every element of the output is differentiated. n > 0: n random projections of the output
  // instead, for functions whose Jacobian is too large.
  int projections = 0;
  std::uint64_t seed = 1;  // of the projections
};

// The element of the Jacobian that is worst against its tolerance.
struct GradcheckResult {
  bool ok = true;
  double analytic = 0, numeric = 0;
  double excess = 0;         // |analytic − numeric| / tolerance; not finite counts as infinite
  std::string input;         // "input 0", or "parameter NAME" ("parameter 1" when it has no name)
  std::int64_t element = 0;  // of that input
  std::int64_t output = 0;   // element of the output, or number of the projection
  std::string message() const;
};

// `fn` maps watched inputs to one variable; it must be deterministic and may use `parameters`, all
// of whose elements are checked as well. Inputs and parameters F64 on the CPU (throws
// Error("gradcheck") otherwise, and when the output is not a float). Cost: one backward pass an
// output element, two forward passes an input element. Parameters keep their values; their
// gradients are dropped.
GradcheckResult gradcheck(const std::function<Var(const std::vector<Var>&)>& fn,
                          const std::vector<Tensor>& inputs,
                          const std::vector<Parameter*>& parameters = {},
                          const GradcheckOptions& options = {});

}  // namespace nibble
