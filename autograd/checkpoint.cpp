#include "autograd/checkpoint.h"

#include "autograd/context.h"

namespace nibble {
namespace {

struct Checkpoint {
  static constexpr const char* name = "checkpoint";
  Saved x;
  std::function<Var(const Var&)> fn;
  ForwardContext context;

  void backward(Grads& g) const {
    Tape tape;
    const ForwardScope forward(context);
    const Tape::Recording recording(tape);
    const Var leaf = tape.watch(x.get());
    const Var y = fn(leaf);
    tape.backward(y, g.out());
    if (const Tensor dx = tape.gradient(leaf); dx.defined()) g.add(0, dx);
  }
};

}  // namespace

Var checkpoint(std::function<Var(const Var&)> fn, const Var& x) {
  if (!Tape::active()) return fn(x);
  Tensor y;
  {
    const NoGrad no_grad;
    y = fn(x.detach()).tensor();
  }
  // A leaf that is watched keeps the node alive when only parameters inside fn are tracked.
  const Var input = x.tracked() ? x : Tape::active()->watch(x.tensor());
  return record<Checkpoint>({&input}, y, [&] {
    return Checkpoint{Saved(x.tensor()), std::move(fn), forward_context()};
  });
}

}  // namespace nibble
