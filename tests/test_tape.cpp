// The tape: lifetimes, errors and hooks.
#include "autograd/checkpoint.h"
#include "autograd/context.h"
#include "autograd/linear.h"
#include "autograd/ops.h"
#include "tensor/activation_sums.h"
#include "tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

Tensor weights(const Shape& shape, std::uint32_t site = 1) {
  return random(shape, DType::F32, -1, 1, site);
}

// x, whose gradient comes with sums (of another value, to tell them) where somebody reads them.
struct WithSums {
  static constexpr const char* name = "with_sums";
  void backward(Grads& g) const {
    if (!g.wants_column_sums(0)) return g.add(0, g.out());
    g.add(0, g.out(), Tensor::full({g.out().size(-1)}, 7, DType::F32));
  }
};
Var with_sums(const Var& x) {
  return record<WithSums>({&x}, x.tensor(), [] { return WithSums{}; });
}

// x, with the sums of its gradient if somebody made them.
struct ReadsSums {
  static constexpr const char* name = "reads_sums";
  Tensor *sums, *gradient;
  void backward(Grads& g) const {
    *sums = g.column_sums();
    *gradient = g.out();
    g.add(0, g.out());
  }
};

}  // namespace

TEST_CASE("tape: GELU makes the sums that the layer before it reads") {
  for (const DType dtype : {DType::F32, DType::BF16}) {
    Parameter p(weights({6, 5}));
    Tape tape;
    const Tape::Recording recording(tape);
    const Var x = Var(p) * Var(p);
    Tensor sums, gradient;
    const Var h = record<ReadsSums>({&x}, x.tensor().to(dtype), [&] {
      return ReadsSums{&sums, &gradient};
    });
    tape.want_column_sums(h);
    tape.backward(gelu(h), weights({6, 5}, 4).to(dtype));
    REQUIRE(sums.defined());
    Tensor expected = Tensor::zeros({5}, DType::F32);
    ops::column_sum_into(expected, gradient, false);
    CHECK(same_bits(sums, expected));
  }
}

TEST_CASE("tape: a bias takes the sums that come with its layer's gradient, if that is all of it") {
  Parameter w(weights({5, 3})), bias(weights({5}, 2));
  const auto gradient = [&](DType dtype, auto&& reader) {
    Tape tape;
    const Tape::Recording recording(tape);
    const Var h = linear(Var(weights({2, 8, 3}, 3).to(dtype)), w, &bias, {});
    tape.backward(reader(h), weights({2, 8, 5}, 4).to(dtype));
    const Tensor sums = bias.grad().clone();
    for (Parameter* p : {&w, &bias}) p->set_has_grad(false);
    return sums;
  };
  const Tensor sevens = Tensor::full({5}, 7, DType::F32);
  const auto plain = [](const Var& h) { return h * h; };
  for (const DType dtype : {DType::F32, DType::BF16}) {
    CHECK(same_bits(gradient(dtype, with_sums), sevens));
    const Tensor twice = gradient(dtype, [](const Var& h) { return h + h; });
    CHECK(same_bits(gradient(dtype, [](const Var& h) { return with_sums(h) + h; }), twice));
    CHECK(same_bits(gradient(dtype, [](const Var& h) { return h + with_sums(h); }), twice));
    CHECK_FALSE(same_bits(gradient(dtype, plain), sevens));
    // GELU's sums have the bits of column_sum.
    const Tensor x = weights({2, 8, 5}, 5).to(dtype), dy = weights({2, 8, 5}, 4).to(dtype);
    const ops::SummedGradient got = ops::gelu_backward_sums(dy, x);
    CHECK(same_bits(got.dx, ops::gelu_backward(dy, x, ops::Gelu::Tanh)));
    Tensor expected = Tensor::zeros({5}, DType::F32);
    ops::column_sum_into(expected, got.dx.flatten_rows(), false);
    CHECK(same_bits(got.column_sums, expected));
  }
  CHECK_FALSE(same_bits(gradient(DType::F64, with_sums).to(DType::F32), sevens));
}

TEST_CASE("tape: writing to a saved tensor is an error in backward") {
  const auto message = [](auto&& build) {
    Tape tape;
    const Tape::Recording recording(tape);
    Tensor v = weights({4});
    const Var x = tape.watch(v);
    const Var y = build(x, v);
    return error_of([&] { tape.backward(sum(y)); });
  };
  CHECK(message([](const Var& x, Tensor& v) {
          const Var y = square(x);
          v.fill(0);
          return y;
        }).find("backward: a saved tensor was modified in place") == 0);
  CHECK(message([](const Var& x, Tensor& v) {  // the sum needs no input
          const Var y = x + x;
          v.fill(0);
          return y;
        }) == "");
  Tensor ids = Tensor::from(std::vector<std::int32_t>{1, 0}, {2});
  Parameter table(weights({2, 3}));
  CHECK(message([&](const Var&, Tensor&) {
          const Var y = embedding(ids, table);
          ids.fill(0);
          return y;
        }).find("modified in place") != std::string::npos);
}

TEST_CASE("tape: a variable of another recording is an error") {
  Tape tape, other;
  Var stale;
  {
    const Tape::Recording recording(tape);
    stale = square(tape.watch(weights({2})));
  }
  for (Tape* t : {&tape, &other}) {
    const Tape::Recording recording(*t);
    const Var x = t->watch(weights({2}));
    CHECK(error_of([&] { add(x, stale); }).find("tape: an input was recorded by another") == 0);
    CHECK(error_of([&] {
            t->backward(sum(stale.detach()));
          }).find("backward: the output does not depend") == 0);
    // What was recorded before and after still works.
    t->backward(sum(x + stale.detach()));
    check_close(t->gradient(x), {1, 1}, 0);
  }
  CHECK(error_of([&] { tape.gradient(stale); }).find("gradient: ") == 0);
}

TEST_CASE("tape: backward asks for one element, or a gradient of the output's shape") {
  Tape tape;
  const Tape::Recording recording(tape);
  const Var x = tape.watch(weights({2}));
  CHECK(error_of([&] {
          tape.backward(square(x));
        }).find("backward: got a loss of shape [2], expected one element") == 0);
  CHECK(error_of([&] {
          tape.backward(square(x), weights({3}));
        }).find("backward: got a gradient f32[3] on cpu, expected shape [2]") == 0);
}

TEST_CASE("tape: nothing is recorded without a tape, inputs or consent") {
  Parameter w(weights({2, 2}));
  CHECK_FALSE(square(Var(w)).tracked());  // no tape
  Tape tape;
  const Tape::Recording recording(tape);
  {
    const NoGrad no_grad;
    CHECK_FALSE(square(Var(w)).tracked());
  }
  CHECK_FALSE(square(Var(weights({2}))).tracked());
  CHECK(tape.size() == 0);
  CHECK(square(Var(w)).tracked());
  CHECK(tape.size() == 1);
}

TEST_CASE("tape: the parameter hook fires once each, after the last consumer") {
  Parameter a(weights({2, 2})), b(weights({2, 2})), c(weights({2, 2}));
  a.name.push_back('a'), b.name.push_back('b'), c.name.push_back('c');
  Tape tape;
  std::string order;
  tape.on_grad_ready([&](Parameter& p) {
    order += p.name;
    CHECK(p.has_grad());
  });
  const Tape::Recording recording(tape);
  // a is used first and last: ready only at the end.
  Var x = linear(weights({1, 2}), a, nullptr, {});
  x = linear(x, b, nullptr, {});
  x = linear(x, c, nullptr, {});
  x = linear(x, a, nullptr, {});
  tape.backward(sum(x));
  CHECK(order == "cba");
  // A second pass in the same recording counts again.
  tape.backward(sum(linear(weights({1, 2}), b, nullptr, {})));
  CHECK(order == "cbab");
}

TEST_CASE("tape: a summary has a line a node with its module and shape") {
  Tape tape;
  const Tape::Recording recording(tape);
  const Var x = tape.watch(weights({2, 3}));
  const std::string path = "blocks.0.mlp";
  {
    const ModuleScope scope(path);
    const Var y = gelu(x);
    static_cast<void>(sum(y));
  }
  CHECK(tape.summary() ==
        fmt::format("{:<24} {:<32} [2, 3]\n{:<24} {:<32} []\n", "gelu", path, "sum", path));
  tape.clear();
  CHECK(tape.size() == 0);
}

TEST_CASE("tape: check_finite names operation, module and tensor") {
  Tape tape;
  tape.set_check_finite(true);
  const std::string path = "blocks.1.ln";
  const ModuleScope scope(path);
  {
    const Tape::Recording recording(tape);
    const Var x = tape.watch(Tensor::zeros({3}));
    CHECK(error_of([&] { log(x); }) ==
          "not finite: the output of log in module 'blocks.1.ln' (f32[3] on cpu) holds a NaN or "
          "infinity");
    CHECK(error_of([&] { tape.backward(sum(sqrt(x))); }) ==
          "not finite: the gradient of input 0 of sqrt in module 'blocks.1.ln' (f32[3] on cpu) "
          "holds a NaN or infinity");
  }
  {
    const Tape::Recording recording(tape);
    Parameter w(weights({2, 3}));
    w.name = "blocks.1.fc.weight";
    const Var y = linear(Tensor::full({1, 3}, 1e30), w, nullptr, {});
    CHECK(error_of([&] {
            tape.backward(y, Tensor::full({1, 2}, 1e30));
          }) ==
          "not finite: the gradient of parameter 'blocks.1.fc.weight' of linear in module "
          "'blocks.1.ln' (f32[2, 3] on cpu) holds a NaN or infinity");
  }
  {
    const Tape::Recording recording(tape);
    const Var x = tape.watch(weights({3}));
    tape.backward(sum(square(x)));
    CHECK(tape.gradient(x).defined());
  }
}

TEST_CASE("tape: an error while recording leaves a tape that can go on") {
  Tape tape;
  tape.set_check_finite(true);
  const Tape::Recording recording(tape);
  const Var x = tape.watch(Tensor::full({2}, -1));
  const Var y = square(x);
  CHECK_THROWS_AS(log(x), Error);
  tape.backward(sum(y));
  check_close(tape.gradient(x), {-2, -2}, 0);
}

namespace {

// "module/op output" and "module/op gradient", with the values' sums.
struct Log : TapeObserver {
  std::vector<std::string> lines;
  std::vector<double> sums;
  std::vector<std::pair<std::uint64_t, std::size_t>> ids;
  void note(const char* what, const Op& op, const Tensor& value) {
    lines.push_back(fmt::format("{}/{} {}", op.module, op.name, what));
    sums.push_back(ops::sum(value).item());
    ids.emplace_back(op.recording, op.index);
  }
  void output(const Op& op, const Tensor& value) override { note("output", op, value); }
  void gradient(const Op& op, const Tensor& value) override { note("gradient", op, value); }
};

}  // namespace

TEST_CASE("tape: an observer sees outputs forward and whole gradients backward") {
  // Tier: exact, the numbers are small integers.
  Tape tape;
  Log log;
  const std::string path = "layer";
  const auto pass = [&] {
    const Tape::Recording recording(tape);
    const Var x = tape.watch(Tensor::full({2}, 3));
    const Var y = [&] {
      const ModuleScope scope(path);
      return square(x);
    }();
    const Var unused = square(y);
    tape.backward(sum(y + y));  // both halves of the gradient of y before its square runs
    return tape.gradient(x).to_vector();
  };
  const std::vector<float> unobserved = pass();
  CHECK(log.lines.empty());
  tape.set_observer(&log);
  CHECK(pass() == unobserved);
  CHECK(log.lines == std::vector<std::string>{"layer/square output", "/square output",
                                              "/add output", "/sum output", "/sum gradient",
                                              "/add gradient", "layer/square gradient"});
  CHECK(log.sums == std::vector<double>{18, 162, 36, 36, 1, 2, 4});
  CHECK(log.ids[0] == log.ids[6]);
  CHECK(log.ids[2] == log.ids[5]);
  tape.set_observer(nullptr);
  pass();
  CHECK(log.lines.size() == 7);
}

TEST_CASE("tape: an observer sees into a checkpoint once") {
  Tape tape;
  Log log;
  tape.set_observer(&log);
  const Tape::Recording recording(tape);
  const Var x = tape.watch(Tensor::full({2}, 3));
  tape.backward(sum(checkpoint([](const Var& h) { return square(h); }, x)));
  CHECK(log.lines == std::vector<std::string>{"/checkpoint output", "/sum output", "/sum gradient",
                                              "/checkpoint gradient", "/square output",
                                              "/square gradient"});
}
