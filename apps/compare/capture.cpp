#include "apps/compare/capture.h"

#include <set>

#include "autograd/context.h"
#include "tensor/ops.h"

namespace nibble::compare {
namespace {

class Recorder : public TapeObserver {
 public:
  explicit Recorder(const Sink& sink) : sink_(sink) {}
  void output(const Op& op, const Tensor& value) override {
    std::string name = op.module.empty() ? op.name : fmt::format("{}/{}", op.module, op.name);
    if (const int n = ++seen_[name]; n > 1) name += fmt::format(".{}", n);
    sink_(Kind::Output, name, value);
    names_[{op.recording, op.index}] = std::move(name);
  }
  void gradient(const Op& op, const Tensor& value) override {
    sink_(Kind::Gradient, names_.at({op.recording, op.index}), value);
  }

 private:
  const Sink& sink_;
  std::map<std::string, int> seen_;
  std::map<std::pair<std::uint64_t, std::size_t>, std::string> names_;
};

}  // namespace

double run_pass(LanguageModel& model, const Pass& pass, const Sink& sink) {
  const auto forget = [&] {
    for (Parameter* p : parameters(model)) p->set_has_grad(false);
  };
  forget();
  Recorder recorder(sink);
  Tape tape;
  tape.set_observer(&recorder);
  tape.on_grad_ready([&](Parameter& p) {
    if (p.has_grad()) sink(Kind::Parameter, p.name, p.grad());
  });
  const ForwardScope scope({.training = true,
                            .seed = pass.seed,
                            .step = nullptr,
                            .micro_step = 0,
                            .telemetry = nullptr});
  const Tape::Recording recording(tape);
  const Var loss = model.loss(pass.ids, pass.targets);
  // The recorded loss is one number; what the classifier did to each position says more.
  sink(Kind::Output, "token_losses", model.token_losses(pass.ids, pass.targets));
  tape.backward(loss);
  forget();
  return loss.item();
}

Tensor host_copy(const Tensor& value) {
  return value.device().is_cpu() ? value.clone() : ops::contiguous(value).to(kCpu);
}

void Captured::add(Kind kind, const std::string& name, const Tensor& value) {
  index_[{kind, name}] = items_.size();
  items_.push_back({kind, name, host_copy(value)});
}

std::size_t Captured::find(Kind kind, const std::string& name) const {
  const auto at = index_.find({kind, name});
  return at == index_.end() ? kNone : at->second;
}

std::vector<std::string> Captured::names() const {
  std::vector<std::string> all;
  std::set<std::string> seen;
  for (const Item& item : items_)
    if (seen.insert(item.name).second) all.push_back(item.name);
  return all;
}

Captured capture(LanguageModel& model, const Pass& pass) {
  Captured captured;
  captured.loss = run_pass(model, pass, [&](Kind kind, const std::string& name, const Tensor& x) {
    captured.add(kind, name, x);
  });
  return captured;
}

}  // namespace nibble::compare
