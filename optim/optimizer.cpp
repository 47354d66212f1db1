#include "optim/optimizer.h"

#include <cmath>

#include "optim/kernels.h"
#include "tensor/ops.h"

namespace nibble {
namespace {

struct Matrix {
  std::int64_t rows, cols;
};
Matrix as_matrix(const Shape& s) {
  if (s.rank() < 2) return {1, s.numel()};
  return {s.numel() / s[-1], s[-1]};
}
Tensor flat(const Tensor& x) {
  const Matrix m = as_matrix(x.shape());
  return x.view({m.rows, m.cols});
}

}  // namespace

Optimizer::Optimizer(std::vector<ParameterGroup> groups, std::vector<StateSlot> slots,
                     std::uint64_t seed)
    : groups_(std::move(groups)), slots_(std::move(slots)), seed_(seed) {
  const MemoryScope scope{"optimizer"};
  add_counter("updates", 0);
  add_counter("skipped", 0);
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    for (Parameter* p : groups_[g].parameters) {
      NIBBLE_CHECK(p && !p->name.empty(), "optimizer",
                   "a parameter has no name; call assign_paths() first");
      for (const Entry& e : entries_)
        NIBBLE_CHECK(e.parameter->name != p->name, "optimizer", "{} is in two groups", p->name);
      Entry entry{p, g, {}, {}};
      const Matrix m = as_matrix(p->shape());
      for (const StateSlot& slot : slots_) {
        const bool encoded =
            p->numel() >= slot.min_elements && (!slot.eligible || slot.eligible(*p));
        entry.codecs.push_back(encoded ? slot.codec : dense_codec());
        entry.states.push_back(entry.codecs.back()->make(m.rows, m.cols, p->device()));
      }
      entries_.push_back(std::move(entry));
    }
  }
}

Tensor& Optimizer::add_counter(const std::string& name, double initial) {
  return counters_[name] = Tensor::full({1}, initial, DType::F64);
}
Tensor& Optimizer::counter(const std::string& name) {
  const auto it = counters_.find(name);
  NIBBLE_CHECK(it != counters_.end(), "optimizer", "no counter '{}'", name);
  return it->second;
}

std::uint64_t Optimizer::updates() const {
  return static_cast<std::uint64_t>(counters_.at("updates").item());
}
std::uint64_t Optimizer::skipped() const {
  return static_cast<std::uint64_t>(counters_.at("skipped").item());
}

std::vector<Parameter*> Optimizer::parameters() const {
  std::vector<Parameter*> all;
  for (const Entry& e : entries_) all.push_back(e.parameter);
  return all;
}

void Optimizer::zero_grad() {
  for (Entry& e : entries_) e.parameter->set_has_grad(false);
}

void Optimizer::step(StepState& state) {
  const StepScalars scalars = state.read();
  if (scalars.bad) {
    counter("skipped").data<double>()[0] += 1;
    zero_grad();
    return;
  }
  const std::uint64_t t = updates() + 1;
  begin_step(t);
  for (Entry& e : entries_)
    if (e.parameter->has_grad()) update_entry(e, scalars, t);
  counter("updates").data<double>()[0] = static_cast<double>(t);
  zero_grad();
}

void Optimizer::update_entry(Entry& e, const StepScalars& scalars, std::uint64_t t) {
  Parameter& p = *e.parameter;
  // The scratch is what low-bit states cost while they are worked on: one parameter at a time.
  const MemoryScope scope{"optimizer scratch"};
  const bool in_place = !p.is_quantized() && p.storage().dtype() == DType::F32;
  Tensor weight = in_place ? flat(p.storage()) : flat(p.dense(DType::F32)).clone();
  std::vector<Tensor> states;
  for (std::size_t i = 0; i < e.states.size(); ++i) {
    // A dense f32 state is updated where it lies.
    if (e.codecs[i]->name() == "f32") {
      states.push_back(e.states[i]["value"]);
      continue;
    }
    states.push_back(Tensor::empty(weight.shape(), DType::F32, weight.device()));
    e.codecs[i]->decode(states.back(), e.states[i]);
  }
  const ParameterGroup& group = groups_[e.group];
  const Tensor gradient = flat(p.grad());
  Update u{p,
           gradient,
           weight,
           states,
           static_cast<float>(scalars.lr * group.lr_scale),
           scalars.clip,
           group.weight_decay,
           t};
  update(u);
  for (std::size_t i = 0; i < e.states.size(); ++i) {
    if (e.codecs[i]->name() == "f32") continue;
    const RngKey key{seed_, rng_site(p.name, slots_[i].name, static_cast<std::uint32_t>(t)),
                     nullptr};
    e.codecs[i]->encode(e.states[i], states[i], key);
  }
  if (in_place)
    p.storage().bump_version();
  else
    store_weight(p, weight, t);
  p.bump_version();
}

void Optimizer::store_weight(Parameter& p, const Tensor& weight, std::uint64_t t) {
  const RngKey key{seed_, rng_site(p.name, "weight", static_cast<std::uint32_t>(t)), nullptr};
  if (p.is_quantized()) {
    quantize_into(p.quantized(), weight, key);
    return;
  }
  Tensor destination = flat(p.storage());
  NIBBLE_CHECK(destination.dtype() == DType::BF16, "optimizer",
               "{} is stored as {}, expected f32, bf16 or codes", p.name, describe(p.storage()));
  NIBBLE_DISPATCH(weight.device(), stochastic_bf16(destination, weight, key));
}

std::vector<std::pair<std::string, Tensor>> Optimizer::state_tensors() const {
  std::vector<std::pair<std::string, Tensor>> out;
  for (const auto& [name, tensor] : counters_) out.emplace_back("optimizer/" + name, tensor);
  for (const Entry& e : entries_)
    for (std::size_t i = 0; i < e.states.size(); ++i)
      for (const auto& [name, tensor] : e.states[i].tensors)
        out.emplace_back(fmt::format("{}/{}.{}", e.parameter->name, slots_[i].name, name), tensor);
  return out;
}

std::string Optimizer::codec_name(const Parameter& p, std::size_t slot) const {
  for (const Entry& e : entries_)
    if (e.parameter == &p) return e.codecs.at(slot)->name();
  fail("optimizer", "{} is in no group", p.name);
}

std::int64_t Optimizer::state_bytes() const {
  std::int64_t bytes = 0;
  for (const Entry& e : entries_)
    for (const EncodedState& s : e.states) bytes += s.bytes();
  return bytes;
}

double clip_gradients(const std::vector<Parameter*>& parameters, double max_norm,
                      StepState& state) {
  NIBBLE_CHECK(max_norm >= 0, "clip", "got a maximum norm of {}, expected at least 0", max_norm);
  // On Meta nothing is summed: the norm of a plan is 0.
  Tensor total = Tensor::zeros({1}, DType::F64, state.device().is_meta() ? kCpu : state.device());
  for (const Parameter* p : parameters)
    if (p->has_grad()) NIBBLE_DISPATCH(p->device(), sum_squares(total, p->grad(), true));
  const double norm = std::sqrt(total.item());
  if (!std::isfinite(norm)) {
    state.mark_bad();
    return norm;
  }
  // The 1e-6 is torch.nn.utils.clip_grad_norm_'s; it keeps a zero norm from dividing.
  if (max_norm > 0 && norm > max_norm) state.set_clip(max_norm / (norm + 1e-6));
  return norm;
}

void set_weight_storage(Parameter& p, DType dtype) {
  NIBBLE_CHECK(dtype == DType::F32 || dtype == DType::BF16, "weight storage",
               "got {}, expected f32 or bf16", dtype);
  p.set_value(p.dense(DType::F32).to(dtype));
}

void set_weight_storage_int8(Parameter& p) {
  if (p.shape().rank() != 2 || p.is_quantized()) return;
  QuantSpec spec;
  spec.tile = kPerRow;
  const QTensor nearest = quantize(p.dense(DType::F32), spec);
  spec.rounding = Rounding::Stochastic;  // of every later update
  p.set_value(QTensor(nearest.payload(), nearest.scales(), {}, {}, spec, nearest.shape()));
}

}  // namespace nibble
