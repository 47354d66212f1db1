// A quantizer: ternary weight networks (Li & Liu 2016, arXiv 1605.04711). A row becomes -a, 0 or a.
#pragma once

#include "quant/recipe.h"
#include "tensor/ops.h"

class Ternary : public nibble::CustomQuantizer {
 public:
  std::string name() const override { return "ternary"; }

  nibble::Tensor fake_quantize(const nibble::Tensor& x, const nibble::RngKey&) const override {
    using namespace nibble;
    const Tensor magnitude = ops::abs(x);
    const Tensor threshold = ops::affine(ops::mean(magnitude, {1}, true), 0.7);
    const Tensor kept = ops::less(threshold, magnitude).to(x.dtype());
    const Tensor count = ops::clamp(ops::sum(kept, {1}, true), 1, static_cast<double>(x.size(1)));
    const Tensor scale = ops::div(ops::sum(ops::mul(magnitude, kept), {1}, true), count);
    return ops::mul(ops::mul(ops::sign(x), kept), scale);
  }
};
