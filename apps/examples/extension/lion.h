// An optimizer: Lion (Chen et al. 2023, arXiv 2302.06675), one moment and the sign of a mixture.
#pragma once

#include "apps/train/build.h"
#include "optim/optimizer.h"
#include "tensor/ops.h"

struct LionConfig {
  double beta1 = 0.9, beta2 = 0.99;
  std::string m;  // codec; "": the recipe's
};
template <class V>
void visit(V& v, LionConfig& c) {
  v("beta1", c.beta1, nibble::config::half_open(0.0, 1.0));
  v("beta2", c.beta2, nibble::config::half_open(0.0, 1.0));
  v("m", c.m);
}

class Lion : public nibble::Optimizer {
 public:
  Lion(const LionConfig& config, const nibble::train::OptimizerInputs& in)
      : Optimizer(in.groups, {in.slot("m", config.m, in.moments.m)}, in.seed), config_(config) {}
  std::string name() const override { return "lion"; }

 protected:
  void update(Update& u) override {
    using namespace nibble;
    const auto mix = [&](double beta) {  // beta·m + (1 - beta)·g
      return ops::add(ops::affine(u.states[0], beta),
                      ops::affine(u.gradient, (1 - beta) * static_cast<double>(u.clip)));
    };
    const Tensor direction = ops::sign(mix(config_.beta1));
    u.states[0].copy_from(mix(config_.beta2));
    u.weight.copy_from(ops::affine(u.weight, 1 - static_cast<double>(u.lr) * u.group.weight_decay));
    ops::axpy(u.weight, direction, -static_cast<double>(u.lr));
  }

 private:
  LionConfig config_;
};
