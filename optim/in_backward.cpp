// Updates while gradients appear, some at a time: none waits for all others' gradients.
#include <algorithm>
#include <utility>

#include "optim/encodings.h"
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
  auto own = stored(*entry);
  if (auto* u = std::get_if<StoredUpdate>(&own)) {
    if (p.device().is_meta() && !plans_gpu_)
      update_entries({&*entry}, state, false);  // its scratch
    // A launch must not meet a parameter twice.
    if (std::ranges::find(pending_.parameters, &p) != pending_.parameters.end())
      update_pending(state);
    if (!pending_.updates.empty() && max_norm != pending_.max_norm) update_pending(state);
    pending_.max_norm = max_norm;
    pending_.bytes += u->gradient.bytes();
    pending_.updates.push_back(std::move(*u));  // and the gradient with it
    pending_.parameters.push_back(&p);
    p.release_grad();
    if (pending_.bytes >= batch_bytes_) update_pending(state);
    return;
  }
  Tensor clip = Tensor::empty({1}, DType::F32, p.device());
  NIBBLE_DISPATCH(p.device(), clip_each(state.scalars(), squares_, clip, {p.grad()}, max_norm));
  hold_encodings({&p});
  update_entries({&*entry}, state, false);
  p.bump_version();
  p.release_grad();
}

void Optimizer::update_pending(StepState& state) {
  if (pending_.updates.empty()) return;
  Pending now = std::exchange(pending_, {});
  const MemoryScope scope{"workspace"};
  const Device device = now.parameters.front()->device();
  Tensor clips = Tensor::empty({static_cast<std::int64_t>(now.updates.size())}, DType::F32, device);
  std::vector<Tensor> gradients;
  for (StoredUpdate& u : now.updates) {
    const auto i = static_cast<std::int64_t>(gradients.size());
    gradients.push_back(u.gradient);
    u.clip = clips.slice(0, i, i + 1);
  }
  NIBBLE_DISPATCH(device, clip_each(state.scalars(), squares_, clips, gradients, now.max_norm));
  hold_encodings(now.parameters);
  update_all(now.updates, now.parameters, state);
}

void Optimizer::finish_updates(StepState& state) {
  begin_updates(state);
  update_pending(state);
  updating_ = false;
  Tensor none;
  NIBBLE_DISPATCH(home_, count_update(none, counter("skipped"), number_, state.scalars()));
  const std::vector<Parameter*> all = parameters();
  hold_encodings(all);  // of parameters without a gradient, too
  for (Parameter* p : all) p->bump_version();
  refresh_encodings(all);
  zero_grad();
}

}  // namespace nibble
