// The tape: how gradients accumulate in slots and parameters.
#include "autograd/linear.h"
#include "autograd/ops.h"
#include "tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

Tensor weights(const Shape& shape, std::uint32_t site = 1) {
  return random(shape, DType::F32, -1, 1, site);
}

}  // namespace

TEST_CASE("tape: two micro-batches accumulate into a parameter") {
  Parameter w(weights({3, 4})), b(weights({3}));
  const Tensor x0 = weights({2, 4}, 2), x1 = weights({5, 4}, 3);
  const auto pass = [&](const Tensor& x) {
    Tape tape;
    const Tape::Recording recording(tape);
    tape.backward(sum(square(linear(x, w, &b, {}))));
  };
  const auto fresh = [&](const Tensor& x) {
    w.set_has_grad(false), b.set_has_grad(false);
    pass(x);
    return std::pair{w.grad().clone(), b.grad().clone()};
  };
  const auto [w0, b0] = fresh(x0);
  const auto [w1, b1] = fresh(x1);
  w.grad_buffer().fill(1e30);  // stale contents don't count
  w.set_has_grad(false), b.set_has_grad(false);
  pass(x0);
  CHECK(same_bits(w.grad(), w0));
  CHECK(w.has_grad());
  pass(x1);
  check_close(w.grad(), ops::add(w0, w1).to_vector<double>(), 1e-6, 1);
  check_close(b.grad(), ops::add(b0, b1).to_vector<double>(), 1e-6, 1);
}

TEST_CASE("tape: a tied parameter gets the sum of its uses") {
  Parameter table(weights({5, 3}));
  const Tensor ids = Tensor::from(std::vector<std::int32_t>{4, 0, 4}, {3});
  const auto gradient = [&](bool embed, bool project) {
    table.set_has_grad(false);
    Tape tape;
    const Tape::Recording recording(tape);
    const Var frozen(table.storage());
    const Var x = embed ? embedding(ids, table) : Var(ops::index_select(table.storage(), ids));
    const Var y = project ? linear(x, table, nullptr, {}) : matmul(x, transpose(frozen, 0, 1));
    tape.backward(sum(square(y)));
    return table.grad().clone();
  };
  const Tensor both = gradient(true, true),
               apart = ops::add(gradient(true, false), gradient(false, true));
  check_close(both, apart.to_vector<double>(), 1e-6, 1);
}

TEST_CASE("tape: a frozen parameter gets nothing and costs nothing") {
  Parameter w(weights({3, 4}));
  w.requires_grad = false;
  Tape tape;
  const Tape::Recording recording(tape);
  CHECK_FALSE(linear(weights({2, 4}), w, nullptr, {}).tracked());
  const Var x = tape.watch(weights({2, 4}));
  tape.backward(sum(linear(x, w, nullptr, {})));
  CHECK(tape.gradient(x).defined());
  CHECK_FALSE(w.has_grad());
  CHECK_FALSE(w.grad().defined());
}

TEST_CASE("tape: gradients that share storage stay apart") {
  const Tensor v = weights({4});
  Tape tape;
  const Tape::Recording recording(tape);
  const Var a = tape.watch(v), b = tape.watch(v);
  // One dy reaches a twice and b once; b is then used again, later in the walk.
  const Var y = a * 3 + (add(a, a) + b) + (b + b.detach());
  tape.backward(y, Tensor::full({4}, 2));
  check_close(tape.gradient(a), {10, 10, 10, 10}, 0);
  check_close(tape.gradient(b), {4, 4, 4, 4}, 0);
}

TEST_CASE("tape: the gradient of a sum is a tensor of its own") {
  Tape tape;
  const Tape::Recording recording(tape);
  const Var x = tape.watch(weights({2, 3}));
  tape.backward(sum(x));
  CHECK(tape.gradient(x).is_contiguous());
  check_close(tape.gradient(x), std::vector<double>(6, 1), 0);
}

TEST_CASE("tape: expanded gradients reach parameters whole, also the second time") {
  Parameter w(weights({2, 3}));
  for (int i = 1; i <= 2; ++i) {
    Tape tape;
    const Tape::Recording recording(tape);
    tape.backward(sum(Var(w)));
    check_close(w.grad(), std::vector<double>(6, i), 0);
  }
}

namespace {

// y = x in f64 whatever x is, and a gradient in f64: dtypes of slots are not the operation's task.
struct Widened {
  static constexpr const char* name = "widened";
  bool sink;
  void backward(Grads& g) const {
    if (!sink) return g.add(0, g.out().to(DType::F64));
    Grads::Sink s = g.sink(0);
    const Tensor dy = g.out().to(s.destination.dtype());
    s.destination.copy_from(s.accumulate ? ops::add(s.destination, dy) : dy);
  }
};
Var widened(const Var& x, bool sink) {
  return record<Widened>({&x}, x.tensor().to(DType::F64), [&] { return Widened{sink}; });
}

}  // namespace

TEST_CASE("tape: gradients take the dtype of what they belong to") {
  for (const bool sink : {false, true}) {
    CAPTURE(sink);
    Parameter w(weights({3}));
    Tape tape;
    const Tape::Recording recording(tape);
    const Var x = tape.watch(weights({3}).to(DType::BF16));
    const Var h = x * 2;  // its slot gets two gradients
    const Var y = widened(h, sink) + cast(h, DType::F64) + widened(w, sink) + widened(w, false);
    tape.backward(sum(y));
    CHECK(tape.gradient(x).dtype() == DType::BF16);
    check_close(tape.gradient(x), {4, 4, 4}, 0);
    CHECK(w.grad().dtype() == DType::F32);
    check_close(w.grad(), {2, 2, 2}, 0);
  }
}

TEST_CASE("tape: a sink of a shared gradient does not write through") {
  Tape tape;
  const Tape::Recording recording(tape);
  const Var a = tape.watch(weights({3}).to(DType::F64)),
            b = tape.watch(weights({3}).to(DType::F64));
  const Var first = widened(a, true);  // last in backward: adds into a's gradient, which is dy
  const Var y = add(a, b) + first;
  tape.backward(sum(y));
  check_close(tape.gradient(a), {2, 2, 2}, 0);
  check_close(tape.gradient(b), {1, 1, 1}, 0);
}

TEST_CASE("tape: a norm adds to the gradient that its input has, in the bits of a sum") {
  Parameter gain(weights({8}, 2)), offset(weights({8}, 3));
  const std::string module = "norm";  // the tape keeps its address
  for (const DType dtype : {DType::F32, DType::BF16, DType::F64}) {
    const Tensor a = weights({2, 3, 8}, 4).to(dtype), b = weights({2, 3, 8}, 5).to(dtype);
    const Tensor dy = weights({2, 3, 8}, 6).to(dtype), dz = weights({2, 3, 8}, 7).to(dtype);
    // Of a and b, by the norm's reader (1), by another one (2) or by both.
    const auto gradients = [&](int readers, bool norm_first) {
      gain.set_has_grad(false), offset.set_has_grad(false);
      Tape tape;
      const Tape::Recording recording(tape);
      const Var x = tape.watch(a), r = tape.watch(b);
      const AddedNorm both = add_layer_norm(x, r, gain, &offset, 1e-5, {}, module);
      Var loss;
      const auto read = [&](int reader, const Var& part) {
        if (readers & reader) loss = loss.tracked() ? loss + part : part;
      };
      const auto norm = [&] { read(1, sum(both.norm * Var(dy))); };
      if (norm_first) norm();
      read(2, sum(square(both.sum) * Var(dz)));
      if (!norm_first) norm();
      tape.backward(loss);
      return std::pair{tape.gradient(x), tape.gradient(r)};
    };
    for (const bool norm_first : {false, true}) {
      const Tensor expected =
          ops::add(gradients(1, norm_first).first, gradients(2, norm_first).first);
      const auto [dx, dr] = gradients(3, norm_first);
      CHECK(same_bits(dx, expected));
      CHECK(same_bits(dr, expected));
    }
  }
}

TEST_CASE("tape: a gradient that a norm adds to is nobody else's loss") {
  Parameter gain(weights({8}, 2));
  Tape tape;
  const Tape::Recording recording(tape);
  const Var x = tape.watch(weights({3, 8}, 4)), r = tape.watch(weights({3, 8}, 5));
  const Var nothing = layer_norm(x, gain, nullptr) * Var(Tensor::zeros({1}));
  const Var y = nothing + (x + r);  // dy is r's gradient and, until the norm has run, x's
  const Tensor dy = weights({3, 8}, 6), kept = dy.clone();
  tape.backward(y, dy);
  CHECK(same_bits(tape.gradient(r), kept));
  CHECK(same_bits(tape.gradient(x), kept));
  CHECK(same_bits(dy, kept));
}
