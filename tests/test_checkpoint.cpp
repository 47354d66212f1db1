// Activation checkpointing, and the memory of a pass.
#include "autograd/checkpoint.h"

#include "autograd/context.h"
#include "autograd/linear.h"
#include "autograd/ops.h"
#include "quant/recipe.h"
#include "tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

Tensor weights(const Shape& shape, std::uint32_t site) {
  return random(shape, DType::F32, -1, 1, site);
}

struct Net {
  Parameter w1{weights({32, 16}, 1)}, w2{weights({16, 32}, 2)}, gain{weights({16}, 3)};
  LinearRecipe recipe = recipes::parse("int8_rowwise").linear;
  std::string path = "block";

  Var half(const Var& x) { return dropout(gelu(linear(x, w1, nullptr, recipe)), 0.25); }
  Var block(const Var& x) {
    const ModuleScope scope(path);
    return x + linear(half(rms_norm(x, gain)), w2, nullptr, recipe);
  }
  // The two halves of a block checkpointed inside the block's own.
  Var nested(const Var& x) {
    const ModuleScope scope(path);
    const Var h = checkpoint([this](const Var& v) { return half(rms_norm(v, gain)); }, x);
    return x + linear(h, w2, nullptr, recipe);
  }
};

struct Gradients {
  Tensor y, dx, w1, w2, gain;
};

template <class F>
Gradients run(Net& net, F&& block, std::string* ready = nullptr) {
  for (Parameter* p : {&net.w1, &net.w2, &net.gain}) p->set_has_grad(false);
  net.w1.name = "w1", net.w2.name = "w2", net.gain.name = "gain";
  Tape tape;
  if (ready) tape.on_grad_ready([ready](Parameter& p) { *ready += p.name + " "; });
  const Tape::Recording recording(tape);
  const Var x = tape.watch(weights({6, 16}, 4));
  Var y;
  {  // recomputation brings the context back itself
    const ForwardScope scope({.training = true, .seed = 3, .micro_step = 2});
    y = block(block(x));
  }
  tape.backward(sum(square(y)));
  return {y.tensor(), tape.gradient(x), net.w1.grad().clone(), net.w2.grad().clone(),
          net.gain.grad().clone()};
}

void check_equal(const Gradients& a, const Gradients& b) {
  CHECK(same_bits(a.y, b.y));
  CHECK(same_bits(a.dx, b.dx));
  CHECK(same_bits(a.w1, b.w1));
  CHECK(same_bits(a.w2, b.w2));
  CHECK(same_bits(a.gain, b.gain));
}

}  // namespace

TEST_CASE("checkpoint: equals no checkpoint bit for bit, dropout and noise included, also nested") {
  Net net;
  std::string plain_order, order;
  const Gradients plain = run(
      net, [&](const Var& x) { return net.block(x); }, &plain_order);
  check_equal(plain, run(
                         net,
                         [&](const Var& x) {
                           return checkpoint([&](const Var& v) { return net.block(v); }, x);
                         },
                         &order));
  CHECK(plain_order == "w2 w1 gain ");
  // Every parameter once, when no earlier use is left; one node's parameters are ready together.
  CHECK(order.size() == plain_order.size());
  for (const char* name : {"w1 ", "w2 ", "gain "}) CHECK(order.find(name) != std::string::npos);
  check_equal(plain, run(net, [&](const Var& x) {
                return checkpoint([&](const Var& v) { return net.nested(v); }, x);
              }));
}

TEST_CASE("checkpoint: a parameter also used outside is ready after its last use") {
  Net net;
  net.w1.name = "w1", net.w2.name = "w2";
  std::string order;
  Tape tape;
  tape.on_grad_ready([&](Parameter& p) { order += p.name + " "; });
  const Tape::Recording recording(tape);
  const Var h = linear(weights({6, 16}, 4), net.w1, nullptr, {});
  const Var y = checkpoint(
      [&](const Var& v) { return linear(linear(v, net.w2, nullptr, {}), net.w1, nullptr, {}); }, h);
  tape.backward(sum(y));
  CHECK(order == "w2 w1 ");
}

TEST_CASE("checkpoint: an input without gradient still trains what is inside") {
  Net net;
  const Tensor x = weights({6, 16}, 4);
  const auto gradient = [&](bool checkpointed) {
    net.w1.set_has_grad(false);
    Tape tape;
    const Tape::Recording recording(tape);
    const auto fn = [&](const Var& v) { return gelu(linear(v, net.w1, nullptr, {})); };
    tape.backward(sum(checkpointed ? checkpoint(fn, x) : fn(x)));
    return net.w1.grad().clone();
  };
  CHECK(same_bits(gradient(true), gradient(false)));
  net.w1.requires_grad = false;
  Tape tape;
  const Tape::Recording recording(tape);
  CHECK_FALSE(
      checkpoint([&](const Var& v) { return linear(v, net.w1, nullptr, {}); }, x).tracked());
}

TEST_CASE("checkpoint: another recording's variable is an error, a constant is not") {
  Tape tape;
  const Tape::Recording recording(tape);
  const Var a = tape.watch(weights({3}, 1)), b = tape.watch(weights({3}, 2));
  const Var y = checkpoint([&](const Var& v) { return v * b; }, a);
  CHECK(error_of([&] { tape.backward(sum(y)); }).find("tape: an input was recorded by another") ==
        0);
  const Tape::Recording again(tape);
  const Var x = tape.watch(weights({3}, 1));
  const Tensor constant = weights({3}, 5);
  const Var z = checkpoint([&](const Var&) { return Var(constant); }, x) + x;
  tape.backward(sum(z));
  check_close(tape.gradient(x), {1, 1, 1}, 0);
}

namespace {

// The identity, noting the live bytes when backward passes.
struct Probe {
  static constexpr const char* name = "probe";
  std::vector<std::int64_t>* bytes;
  void backward(Grads& g) const {
    bytes->push_back(memory_stats(kCpu).current);
    g.add(0, g.out());
  }
};
Var probe(const Var& x, std::vector<std::int64_t>& bytes) {
  return record<Probe>({&x}, x.tensor(), [&] { return Probe{&bytes}; });
}

}  // namespace

TEST_CASE("tape: the memory of saved tensors only falls during backward") {
  std::vector<std::int64_t> bytes;
  Parameter w(weights({64, 64}, 1));
  w.grad_buffer();
  Tape tape;
  const Tape::Recording recording(tape);
  Var x = tape.watch(weights({32, 64}, 2));
  for (int i = 0; i < 6; ++i)
    x = probe(gelu(linear(x, w, nullptr, recipes::parse("int8").linear)), bytes);
  Var loss = sum(x);
  x = Var();
  tape.backward(loss);
  REQUIRE(bytes.size() == 6);
  for (std::size_t i = 2; i < bytes.size(); ++i)   // the first gradient is a broadcast scalar
    CHECK(bytes[i] < bytes[i - 1] - 32 * 64 * 4);  // GELU's input at least
}

TEST_CASE("tape: repeated steps allocate alike and keep nothing") {
  Net net;
  Tape tape;
  std::vector<std::int64_t> live, allocations;
  for (int step = 0; step < 5; ++step) {
    const ForwardScope scope({.training = true});
    {
      const Tape::Recording recording(tape);
      const Var x = checkpoint([&](const Var& v) { return net.block(v); }, weights({6, 16}, 4));
      tape.backward(sum(square(net.block(x))));
      tape.clear();
    }
    for (Parameter* p : {&net.w1, &net.w2, &net.gain}) {
      p->set_has_grad(false);
      p->bump_version();
    }
    live.push_back(memory_stats(kCpu).current);
    allocations.push_back(memory_stats(kCpu).allocations);
  }
  for (std::size_t i = 2; i < live.size(); ++i) {
    CHECK(live[i] == live[1]);
    CHECK(allocations[i] - allocations[i - 1] == allocations[2] - allocations[1]);
  }
}
