#include "optim/adam.h"

#include <cmath>

#include "optim/kernels.h"

namespace nibble {

AdamW::AdamW(std::vector<ParameterGroup> groups, AdamOptions options)
    : Optimizer(std::move(groups), {options.m, options.v}, options.seed),
      options_(std::move(options)) {
  const auto in_unit = [](double b) { return b >= 0 && b < 1; };
  NIBBLE_CHECK(in_unit(options_.beta1) && in_unit(options_.beta2), "adamw",
               "got β ({}, {}), expected [0, 1)", options_.beta1, options_.beta2);
  NIBBLE_CHECK(options_.epsilon > 0, "adamw", "got ε = {}, expected a positive one",
               options_.epsilon);
  // Running products in f64: a step costs one multiplication on any device, and no pow that
  // differs.
  add_counter("beta1_power", 1);
  add_counter("beta2_power", 1);
}

void AdamW::begin_step(std::uint64_t) {
  counter("beta1_power").data<double>()[0] *= options_.beta1;
  counter("beta2_power").data<double>()[0] *= options_.beta2;
}

void AdamW::update(Update& u) {
  const double b1 = counter("beta1_power").data<double>()[0],
               b2 = counter("beta2_power").data<double>()[0];
  const AdamScalars s{.lr = u.lr,
                      .beta1 = static_cast<float>(options_.beta1),
                      .beta2 = static_cast<float>(options_.beta2),
                      .epsilon = static_cast<float>(options_.epsilon),
                      .clip = u.clip,
                      .decay = static_cast<float>(1 - static_cast<double>(u.lr) * u.weight_decay),
                      .correction1 = static_cast<float>(1 / (1 - b1)),
                      .correction2 = static_cast<float>(1 / std::sqrt(1 - b2))};
  NIBBLE_DISPATCH(u.weight.device(), adam(u.weight, u.states[0], u.states[1], u.gradient, s));
}

Sgd::Sgd(std::vector<ParameterGroup> groups, SgdOptions options)
    : Optimizer(std::move(groups),
                options.momentum > 0 ? std::vector{options.m} : std::vector<StateSlot>{},
                options.seed),
      options_(std::move(options)) {
  NIBBLE_CHECK(options_.momentum >= 0 && options_.momentum < 1, "sgd",
               "got momentum {}, expected [0, 1)", options_.momentum);
}

void Sgd::update(Update& u) {
  const SgdScalars s{.lr = u.lr,
                     .momentum = static_cast<float>(options_.momentum),
                     .clip = u.clip,
                     .decay = static_cast<float>(1 - static_cast<double>(u.lr) * u.weight_decay),
                     .nesterov = options_.nesterov};
  Tensor none;
  NIBBLE_DISPATCH(u.weight.device(),
                  sgd(u.weight, u.states.empty() ? none : u.states[0], u.gradient, s));
}

}  // namespace nibble
