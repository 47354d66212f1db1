// Updates while gradients appear: none waits for another one's gradient.
#include <algorithm>

#include "optim/kernels.h"
#include "optim/optimizer.h"

namespace nibble {

// Once the loss has said whether the step is bad, so that a bad one counts as skipped alone.
void Optimizer::begin_updates(StepState& state) {
  if (updating_) return;
  check_home(state);
  updating_ = true;
  if (!squares_.defined()) squares_ = Tensor::zeros({1}, DType::F64, home_);
  squares_.fill(0);
  Tensor none;
  NIBBLE_DISPATCH(home_, count_update(counter("updates"), none, number_, state.scalars()));
  update_entries({}, state, true);
}

void Optimizer::update_now(Parameter& p, StepState& state, double max_norm) {
  if (!p.has_grad()) return;
  const auto entry = std::ranges::find(entries_, &p, &Entry::parameter);
  NIBBLE_CHECK(entry != entries_.end(), "optimizer", "{} is in no group", p.name);
  begin_updates(state);
  NIBBLE_DISPATCH(p.device(), clip_parameter(state.scalars(), squares_, p.grad(), max_norm));
  update_entries({&*entry}, state, false);
  p.bump_version();
  p.release_grad();
}

void Optimizer::finish_updates(StepState& state) {
  begin_updates(state);
  updating_ = false;
  Tensor none;
  NIBBLE_DISPATCH(home_, count_update(none, counter("skipped"), number_, state.scalars()));
  for (Entry& e : entries_) e.parameter->bump_version();
  zero_grad();
}

}  // namespace nibble
