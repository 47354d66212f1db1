#include "tensor/step_state.h"

#include <cstring>

#ifdef NIBBLE_CUDA_BACKEND
#include "tensor/cuda/context.h"
#include "tensor/cuda/graph.h"
#endif

namespace nibble {

// A Meta state holds its scalars on the host: nothing reads them but the code around the step.
StepState::StepState(Device device) : device_(device) {
  const MemoryScope scope("workspace");
  storage_ = Ref<Storage>::make(sizeof(StepScalars), home());
  const StepScalars initial;
  write(0, &initial, sizeof(initial));
}

void StepState::begin(std::uint32_t step, double lr) {
  const StepScalars s{.step = step, .lr = static_cast<float>(lr)};
  constexpr std::size_t kBegin = offsetof(StepScalars, step);
  write(kBegin, reinterpret_cast<const std::byte*>(&s) + kBegin, sizeof(s) - kBegin);
}

StepScalars StepState::read() const {
  StepScalars s;
#ifdef NIBBLE_CUDA_BACKEND
  if (device_.is_cuda()) {
    cuda::use(device_.index);
    cuda::copy_to_host(&s, pointer(), sizeof(s));
    return s;
  }
#endif
  std::memcpy(&s, pointer(), sizeof(s));
  return s;
}

void StepState::set_clip(double factor) {
  const auto clip = static_cast<float>(factor);
  write(offsetof(StepScalars, clip), &clip, sizeof(clip));
}
void StepState::clear_bad() {
  const std::uint32_t bad = 0;
  write(offsetof(StepScalars, bad), &bad, sizeof(bad));
}
void StepState::mark_bad() {
  const std::uint32_t bad = 1;
  write(offsetof(StepScalars, bad), &bad, sizeof(bad));
}

void StepState::unless_bad(const std::function<void()>& body) const {
#ifdef NIBBLE_CUDA_BACKEND
  if (device_.is_cuda()) {
    cuda::use(device_.index);
    if (cuda::recording()) {
      cuda::record_unless(&pointer()->bad, body);
      return;
    }
  }
#endif
  if (!read().bad) body();
}

void StepState::write(std::size_t offset, const void* value, std::size_t bytes) {
  std::byte* to = storage_->data() + offset;
#ifdef NIBBLE_CUDA_BACKEND
  if (device_.is_cuda()) {
    cuda::use(device_.index);
    cuda::copy_to_device(to, value, bytes);
    return;
  }
#endif
  std::memcpy(to, value, bytes);
}

}  // namespace nibble
