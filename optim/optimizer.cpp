#include "optim/optimizer.h"

#include <algorithm>

#include "optim/encodings.h"
#include "optim/kernels.h"
#include "optim/stored.h"
#include "tensor/ops.h"

namespace nibble {
namespace {

// Gradients that wait for a joint update in backward: enough that launches are long.
constexpr std::int64_t kMostPending = 256 << 20;

struct Matrix {
  std::int64_t rows, cols;
};
Matrix as_matrix(const Shape& s) {
  if (s.rank() < 2) return {1, s.numel()};
  return {s.numel() / s[-1], s[-1]};
}
Device home_of(const std::vector<ParameterGroup>& groups) {
  for (const ParameterGroup& g : groups)
    for (const Parameter* p : g.parameters)
      if (p) return p->device().is_meta() ? kCpu : p->device();
  return kCpu;
}
Tensor flat(const Tensor& x) {
  const Matrix m = as_matrix(x.shape());
  return x.view({m.rows, m.cols});
}

}  // namespace

Optimizer::Optimizer(std::vector<ParameterGroup> groups, std::vector<StateSlot> slots,
                     std::uint64_t seed)
    : groups_(std::move(groups)), slots_(std::move(slots)), seed_(seed), home_(home_of(groups_)) {
  const MemoryScope scope{"moments"};
  number_ = Tensor::zeros({1}, DType::I32, home_);
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
  std::int64_t bytes = 0;
  for (const Entry& e : entries_) bytes += bytes_of(DType::F32, e.parameter->numel());
  batch_bytes_ = std::min(bytes / 8, kMostPending);
}

Tensor& Optimizer::add_counter(const std::string& name, double initial) {
  const MemoryScope scope{"moments"};
  return counters_[name] = Tensor::full({1}, initial, DType::F64).to(home_);
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
  updating_ = false;
  pending_ = {};
  for (Entry& e : entries_) e.parameter->set_has_grad(false);
}

void Optimizer::check_home(const StepState& state) const {
  NIBBLE_CHECK(state.home() == home_, "optimizer",
               "got a step state on {}, expected it on {} with the parameters", state.home(),
               home_);
}

void Optimizer::step(StepState& state) {
  check_home(state);
  NIBBLE_DISPATCH(home_,
                  count_update(counter("updates"), counter("skipped"), number_, state.scalars()));
  const std::vector<Parameter*> all = parameters();
  hold_encodings(all);
  std::vector<Entry*> ready;
  for (Entry& e : entries_)
    if (e.parameter->has_grad()) ready.push_back(&e);
  update_entries(ready, state, true);
  // After a skipped step too: codes that were drawn for it are not the next one's.
  refresh_encodings(all);
  zero_grad();
}

void Optimizer::update_entries(const std::vector<Entry*>& entries, const StepState& state,
                               bool begins) {
  std::vector<StoredUpdate> all;
  std::vector<Parameter*> updated;
  std::vector<Entry*> others;
  for (Entry* e : entries) {
    // A plan for the CPU must have its scratch.
    const bool apart = e->parameter->device().is_meta() && !plans_gpu_;
    auto own = apart ? decltype(stored(*e))("meta") : stored(*e);
    if (auto* u = std::get_if<StoredUpdate>(&own)) {
      all.push_back(std::move(*u));
      updated.push_back(e->parameter);
    } else {
      others.push_back(e);
    }
  }
  if (begins || !others.empty())
    state.unless_bad([&] {
      if (begins) begin_step();
      // Only the updates that a recorded step may not hold need the host to know them.
      const StepScalars host = recordable() ? StepScalars{} : state.read();
      for (Entry* e : others) update_entry(*e, state, host);
    });
  if (all.empty()) return;
  const MemoryScope scope{"workspace"};
  update_all(all, updated, state);
}

void Optimizer::update_all(std::vector<StoredUpdate>& all, const std::vector<Parameter*>& updated,
                           const StepState& state) {
  update_stored(all, state.scalars(), draws(0));
  for (Parameter* p : updated) {
    (p->is_quantized() ? p->quantized().payload() : p->storage()).bump_version();
    p->bump_version();
  }
}

void Optimizer::update_stored(std::vector<StoredUpdate>&, const StepScalars*, const RngKey&) {
  fail("optimizer", "{} has no update of stored parameters", name());
}

std::variant<StoredUpdate, std::string> Optimizer::stored(const Entry& e) const {
  const Parameter& p = *e.parameter;
  if (!updates_stored()) return name() + " updates one parameter at a time";
  const auto* codes = std::get_if<QTensor>(&p.value());
  StoredUpdate u{.weight = codes ? codes->payload() : flat(std::get<Tensor>(p.value())),
                 .weight_scales = codes ? codes->scales() : Tensor(),
                 .weight_spec = codes ? std::optional(codes->spec()) : std::nullopt,
                 .weight_site = rng_site(p.name, "weight"),
                 .gradient = p.has_grad() ? flat(p.grad()) : Tensor(),
                 .states = {},
                 .group = groups_[e.group].rule()};
  for (std::size_t i = 0; i < e.states.size(); ++i) {
    const auto form = e.codecs[i]->form();
    if (!form) return e.codecs[i]->name() + " is a codec of its own";
    const EncodedState& s = e.states[i];
    u.states.push_back({.values = s[form->spec ? "codes" : "value"],
                        .scales = form->spec ? s["scales"] : Tensor(),
                        .spec = form->spec,
                        .site = rng_site(p.name, slots_[i].name)});
  }
  if (std::string why = stored_update_refusal(u); !why.empty()) return why;
  return u;
}

std::vector<Optimizer::Apart> Optimizer::apart() const {
  std::vector<Apart> out;
  for (const Entry& e : entries_) {
    const auto own = stored(e);
    if (const auto* why = std::get_if<std::string>(&own)) out.push_back({e.parameter->name, *why});
  }
  return out;
}

RngKey Optimizer::draws(std::uint32_t site) const {
  return {seed_, site, reinterpret_cast<const std::uint32_t*>(number_.data<std::int32_t>())};
}
RngKey Optimizer::key(const Parameter& p, std::string_view purpose) const {
  return draws(rng_site(p.name, purpose));
}

void Optimizer::update_entry(Entry& e, const StepState& state, const StepScalars& host) {
  Parameter& p = *e.parameter;
  // The scratch is what low-bit states cost while they are worked on: one parameter at a time.
  const MemoryScope scope{"workspace"};
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
  const GroupRule group = groups_[e.group].rule();
  const Tensor gradient = flat(p.grad());
  Update u{p,
           gradient,
           weight,
           states,
           group,
           state.scalars(),
           static_cast<float>(static_cast<double>(host.lr) * group.lr_scale),
           host.clip};
  update(u);
  for (std::size_t i = 0; i < e.states.size(); ++i) {
    if (e.codecs[i]->name() == "f32") continue;
    e.codecs[i]->encode(e.states[i], states[i], key(p, slots_[i].name));
  }
  if (in_place)
    p.storage().bump_version();
  else
    store_weight(p, weight);
  p.bump_version();
}

void Optimizer::store_weight(Parameter& p, const Tensor& weight) {
  if (p.is_quantized()) {
    quantize_into(p.quantized(), weight, key(p, "weight"));
    return;
  }
  Tensor destination = flat(p.storage());
  NIBBLE_CHECK(destination.dtype() == DType::BF16, "optimizer",
               "{} is stored as {}, expected f32, bf16 or codes", p.name, describe(p.storage()));
  NIBBLE_DISPATCH(weight.device(), stochastic_bf16(destination, weight, key(p, "weight")));
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

std::vector<Optimizer::State> Optimizer::states() const {
  std::vector<State> out;
  for (const Entry& e : entries_) {
    const Matrix m = as_matrix(e.parameter->shape());
    for (std::size_t i = 0; i < e.codecs.size(); ++i)
      out.push_back(
          {fmt::format("{}/{}", e.parameter->name, slots_[i].name), e.codecs[i], m.rows, m.cols});
  }
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

void queue_clip_gradients(const std::vector<Parameter*>& parameters, double max_norm,
                          StepState& state) {
  NIBBLE_CHECK(max_norm >= 0, "clip", "got a maximum norm of {}, expected at least 0", max_norm);
  Tensor total = Tensor::zeros({1}, DType::F64, state.home());
  std::vector<Tensor> gradients;
  for (const Parameter* p : parameters) {
    if (!p->has_grad()) continue;
    NIBBLE_CHECK(p->device() == state.device() || p->device().is_meta(), "clip",
                 "{} is on {}: got a step state on {}, expected it there", p->name, p->device(),
                 state.device());
    gradients.push_back(p->grad());
  }
  // On Meta nothing is summed: the norm of a plan is 0.
  if (!gradients.empty())
    NIBBLE_DISPATCH(gradients.front().device(), sum_squares_of_all(total, gradients));
  NIBBLE_DISPATCH(state.home(), clip_by_norm(state.scalars(), total, max_norm));
}

double clip_gradients(const std::vector<Parameter*>& parameters, double max_norm,
                      StepState& state) {
  queue_clip_gradients(parameters, max_norm, state);
  return state.read().norm;
}

void accumulate_loss(StepState& state, const Tensor& loss, double divisor) {
  NIBBLE_CHECK(loss.numel() == 1, "accumulate_loss", "got {}, expected one element",
               describe(loss));
  if (!loss.device().is_meta())
    NIBBLE_DISPATCH(state.home(), accumulate_loss(state.scalars(), loss, divisor));
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
