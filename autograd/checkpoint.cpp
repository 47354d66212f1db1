#include "autograd/checkpoint.h"

#include "autograd/context.h"

namespace nibble {
namespace {

// dx and the parameters' gradients by a pass of their own over fn, recorded again. Inputs: x, then
// the parameters that fn uses, so that the tape knows who consumes them.
struct Checkpoint {
  static constexpr const char* name = "checkpoint";
  Saved x;
  std::function<Var(const Var&)> fn;
  ForwardContext context;

  void backward(Grads& g) const {
    Tape tape;
    tape.set_check_finite(g.tape().check_finite());
    tape.set_observer(g.tape().observer());
    const ForwardScope forward(context);
    const Tape::Recording recording(tape);
    const Var input = g.wants(0) ? tape.watch(x.get()) : Var(x.get());
    const Var y = [&] {
      const MemoryScope scope{"activations"};
      return fn(input);
    }();
    if (!y.tracked()) return;  // a constant function
    Tensor dy = g.out();
    g.release_out();
    tape.backward(y, std::move(dy));
    if (!g.wants(0)) return;
    if (const Tensor dx = tape.gradient(input); dx.defined()) g.add(0, dx);
  }
};

}  // namespace

Var checkpoint(std::function<Var(const Var&)> fn, const Var& x) {
  if (!Tape::active()) return fn(x);
  const UsedParameters used;
  Tensor y;
  {
    ForwardContext context = forward_context();
    context.telemetry = nullptr;  // the pass in backward reports
    const ForwardScope forward(context);
    const NoGrad no_grad;
    y = fn(x.detach()).tensor();
  }
  std::vector<Var> parameters;
  for (Parameter* p : used.list()) parameters.emplace_back(*p);
  std::vector<const Var*> inputs{&x};
  for (const Var& p : parameters) inputs.push_back(&p);
  return record<Checkpoint>(std::span<const Var* const>(inputs), y, [&] {
    return Checkpoint{Saved(x.tensor()), std::move(fn), forward_context()};
  });
}

}  // namespace nibble
