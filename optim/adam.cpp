#include "optim/adam.h"

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
  add_counter("beta1_power", 1);
  add_counter("beta2_power", 1);
  const MemoryScope scope{"moments"};
  corrections_ = Tensor::zeros({2}, DType::F32, home());
}

void AdamW::begin_step() {
  NIBBLE_DISPATCH(home(), adam_corrections(corrections_, counter("beta1_power"),
                                           counter("beta2_power"), options_.beta1, options_.beta2));
}

AdamRule AdamW::rule() const {
  return {.beta1 = static_cast<float>(options_.beta1),
          .beta2 = static_cast<float>(options_.beta2),
          .epsilon = static_cast<float>(options_.epsilon)};
}

void AdamW::update(Update& u) {
  NIBBLE_DISPATCH(u.weight.device(), adam(u.weight, u.states[0], u.states[1], u.gradient, rule(),
                                          u.group, u.step, corrections_));
}

void AdamW::update_stored(std::vector<StoredUpdate>& all, const StepScalars* step,
                          const RngKey& draws) {
  NIBBLE_DISPATCH(all.front().weight.device(), adam_stored(all, rule(), step, corrections_, draws));
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
  const SgdRule rule{.momentum = static_cast<float>(options_.momentum),
                     .nesterov = options_.nesterov};
  Tensor none;
  NIBBLE_DISPATCH(u.weight.device(), sgd(u.weight, u.states.empty() ? none : u.states[0],
                                         u.gradient, rule, u.group, u.step));
}

}  // namespace nibble
