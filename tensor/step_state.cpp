#include "tensor/step_state.h"

namespace nibble {

StepState::StepState(Device device) : device_(device), scalars_(std::make_unique<StepScalars>()) {
  check_available(device);
}
void StepState::begin(std::uint32_t step, double lr) {
  scalars_->step = step;
  scalars_->lr = static_cast<float>(lr);
  scalars_->clip = 1;
}
StepScalars StepState::read() const { return *scalars_; }
void StepState::clear_bad() { scalars_->bad = 0; }
void StepState::mark_bad() { scalars_->bad = 1; }

}  // namespace nibble
