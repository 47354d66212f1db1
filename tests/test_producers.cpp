// Operations that quantize for the linear layer behind them, and gradients that come as codes.
// Tier: exact, everything equals the layer that encodes for itself.
#include "autograd/ops.h"
#include "autograd/telemetry.h"
#include "linear_checks.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

constexpr std::int64_t kRows = 272, kIn = 24, kOut = 40;  // the last group of rows is short
const std::string kNormPath = "norm";

// x → producer → linear → GELU → linear, with everything that comes out of it.
struct Net {
  Parameter gain{normal({kIn}, 4)}, offset{normal({kIn}, 5)};
  Parameter w1{normal({kOut, kIn}, 6)}, b1{normal({kOut}, 7)};
  Parameter w2{normal({kIn, kOut}, 8)}, b2{normal({kIn}, 9)};
  std::vector<Parameter*> all() { return {&gain, &offset, &w1, &b1, &w2, &b2}; }
};
enum class Producer { Norm, AddedNorm, Gelu };
struct Pass {
  std::vector<Tensor> results;
  std::vector<std::string> handovers;
};

// `more`: what else the layer's output feeds.
Pass run(Net& net, Producer producer, const LinearRecipe& recipe, DType dtype,
         ops::Gelu kind = ops::Gelu::Tanh, bool twice = false, TapeObserver* observer = nullptr) {
  const ForwardScope scope({.training = true, .seed = 1});
  Tape tape;
  tape.set_observer(observer);
  const Tape::Recording recording(tape);
  const Var x = tape.watch(normal({2, kRows / 2, kIn}, 1).to(dtype));
  const Var r = tape.watch(normal({2, kRows / 2, kIn}, 2).to(dtype));
  const auto wanted = [&](const Parameter& weight) { return wanted_of_input(weight, recipe); };
  Var made, sum = x;
  if (producer == Producer::Norm) {
    made = layer_norm(x, net.gain, &net.offset, 1e-5, wanted(net.w1));
  } else if (producer == Producer::Gelu) {
    made = gelu(x, kind, wanted(net.w1));
  } else {
    const AddedNorm both =
        add_layer_norm(x, r, net.gain, &net.offset, 1e-5, wanted(net.w1), kNormPath);
    made = both.norm, sum = both.sum;
  }
  const Var hidden = linear(made, net.w1, &net.b1, recipe);
  Var y = linear(gelu(hidden, kind, wanted(net.w2)), net.w2, &net.b2, recipe) + sum;
  if (twice) y = y + linear(hidden, net.w2, nullptr, {});
  tape.backward(y, normal(y.shape(), 3).to(dtype));
  Pass out;
  out.results = {y.tensor(), tape.gradient(x)};
  if (const Tensor dr = tape.gradient(r); dr.defined()) out.results.push_back(dr);
  for (Parameter* p : net.all())
    if (p->has_grad()) out.results.push_back(p->grad().clone()), p->set_has_grad(false);
  for (const Tape::Handover& h : tape.handovers())
    out.handovers.push_back(std::string(h.producer) + (h.gradient ? " dy" : " x"));
  return out;
}

void check_same(const Pass& a, const Pass& b) {
  REQUIRE(a.results.size() == b.results.size());
  for (std::size_t i = 0; i < a.results.size(); ++i) {
    CAPTURE(i);
    CHECK(same_bits(a.results[i], b.results[i]));
  }
}

// Hands on a gradient as an Encoded that nobody asked for.
struct Offers {
  static constexpr const char* name = "offers";
  void backward(Grads& g) const {
    CHECK(g.encoded_out() == nullptr);
    CHECK(g.wanted(0) == nullptr);
    g.add(0, Encoded(g.out()));
  }
};

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("producers: codes, values and gradients are those of a layer that encodes for itself") {
  Net net;
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const Producer producer : {Producer::Norm, Producer::AddedNorm, Producer::Gelu}) {
      CAPTURE(static_cast<int>(producer));
      const Pass fused = run(net, producer, linear_recipe("int8"), dtype);
      const char* name = producer == Producer::Gelu ? "gelu x" : "layer_norm x";
      CHECK(fused.handovers == Names{name, "gelu x", "gelu dy"});
      const Pass apart = run(net, producer, linear_recipe("int8,fuse=off"), dtype);
      CHECK(apart.handovers.empty());
      check_same(fused, apart);
    }
}

TEST_CASE("producers: what no kernel serves stays as it was") {
  Net net;
  const auto names = [&](const char* recipe, DType dtype, ops::Gelu kind = ops::Gelu::Tanh) {
    const Pass fused = run(net, Producer::Norm, linear_recipe(recipe), dtype, kind);
    check_same(fused, run(net, Producer::Norm, linear_recipe(std::string(recipe) + ",fuse=off"),
                          dtype, kind));
    return fused.handovers;
  };
  CHECK(names("int8", DType::BF16, ops::Gelu::Erf) == Names{"layer_norm x"});
  CHECK(names("none", DType::F32).empty());
  CHECK(names("w8a8g8", DType::F32).empty());        // simulated
  CHECK(names("int8_rowwise", DType::F32).empty());  // one scale for all tokens
  CHECK(names("int8_block32", DType::F32).empty());
  CHECK(names("int8_switchback", DType::F32).empty());  // wgrad reads x itself
  // Only dy is encoded twice, or only x.
  CHECK(names("int8,save=original", DType::F32) == Names{"gelu dy"});
  CHECK(names("int8,dgrad=none", DType::F32) == Names{"layer_norm x", "gelu x"});
}

TEST_CASE("producers: what is made again in backward has the bits of what is kept") {
  Net net;
  const std::string kept[] = {"int8,save=encoded", "int8_block128", "int8_block32",
                              "int8_rowwise",      "none",          "w8a8g8",
                              "int8,wgrad=none",   "fp8_tensorwise"};
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const Producer producer : {Producer::Norm, Producer::AddedNorm, Producer::Gelu})
      for (const std::string& recipe : kept)
        for (const char* more : {"save=recompute", "output=recompute",
                                 "save=recompute,output=recompute", "save=recompute,fuse=off"}) {
          CAPTURE(recipe);
          CAPTURE(more);
          const Pass all = run(net, producer, linear_recipe(recipe), dtype);
          check_same(all, run(net, producer, linear_recipe(recipe + "," + more), dtype));
        }
  check_same(
      run(net, Producer::Norm, linear_recipe("int8,save=encoded"), DType::BF16, ops::Gelu::Erf),
      run(net, Producer::Norm, linear_recipe("int8,output=recompute"), DType::BF16,
          ops::Gelu::Erf));
}

TEST_CASE("producers: a layer that makes its input again keeps no codes") {
  Net net;
  const auto saved = [&](const char* text) {
    const LinearRecipe recipe = linear_recipe(text);
    const ForwardScope scope({.training = true, .seed = 1});
    Tape tape;
    const Tape::Recording recording(tape);
    const Var x = tape.watch(normal({kRows, kIn}, 1).to(DType::BF16));
    const std::int64_t before = memory_stats(kCpu).current;
    const auto wanted = wanted_of_input(net.w1, recipe);
    Var y = linear(layer_norm(x, net.gain, &net.offset, 1e-5, wanted), net.w1, &net.b1, recipe);
    y = gelu(y, ops::Gelu::Tanh, wanted_of_input(net.w2, recipe));
    y = linear(y, net.w2, &net.b2, recipe);
    const std::int64_t after = memory_stats(kCpu).current;
    tape.backward(y, y.tensor());
    return after - before;
  };
  saved("int8"), saved("none");  // what is kept of weights, gradients
  const std::int64_t codes = kRows * (kIn + kOut);
  const std::int64_t encoded = saved("int8,save=encoded"), recomputed = saved("int8");
  CHECK(encoded - recomputed >= codes);
  CHECK(recomputed - saved("int8,output=recompute") == kRows * kOut * 2);
  CHECK(saved("none") - saved("none,save=recompute") == 2 * codes);
}

TEST_CASE("producers: attention hands on codes of its output, which its backward reads") {
  const auto pass = [](const std::string& recipe_text, std::int64_t tokens, DType dtype) {
    const LinearRecipe recipe = linear_recipe(recipe_text);
    Parameter w{normal({kOut, 128}, 6)}, b{normal({kOut}, 7)};
    const ForwardScope scope({.training = true, .seed = 1});
    Tape tape;
    const Tape::Recording recording(tape);
    const Var qkv = tape.watch(normal({2, tokens, 3 * 128}, 1).to(dtype));
    const Var mixed = self_attention(qkv, 2, true, 0.1, wanted_of_input(w, recipe));
    const Var y = linear(mixed, w, &b, recipe);
    tape.backward(y, normal(y.shape(), 3).to(dtype));
    Pass out{{y.tensor(), tape.gradient(qkv), w.grad().clone(), b.grad().clone()}, {}};
    for (const Tape::Handover& h : tape.handovers())
      out.handovers.push_back(std::string(h.producer) + (h.gradient ? " dy" : " x"));
    return out;
  };
  const auto check = [&](const std::string& recipe, std::int64_t tokens, DType dtype,
                         const Names& handovers) {
    CAPTURE(recipe);
    CAPTURE(tokens);
    const Pass fused = pass(recipe, tokens, dtype);
    CHECK(fused.handovers == handovers);
    check_same(fused, pass(recipe + ",fuse=off", tokens, dtype));
  };
  check("int8_block128", 128, DType::BF16, {"self_attention x"});
  check("int8_block128", 192, DType::BF16, {});  // a group of tokens and a half
  check("int8_block128", 128, DType::F32, {});
  check("int8", 256, DType::BF16, {});  // a row's scale covers all heads
}

TEST_CASE("producers: a gradient with a second contribution is summed before it is encoded") {
  Net net;
  const Pass fused =
      run(net, Producer::Norm, linear_recipe("int8"), DType::BF16, ops::Gelu::Tanh, true);
  CHECK(fused.handovers == Names{"layer_norm x", "gelu x"});
  check_same(fused, run(net, Producer::Norm, linear_recipe("int8,fuse=off"), DType::BF16,
                        ops::Gelu::Tanh, true));
}

TEST_CASE("producers: gradients add up over micro-batches") {
  const auto twice = [](const char* recipe) {
    Net net;
    run(net, Producer::Norm, linear_recipe(recipe), DType::BF16);
    for (Parameter* p : net.all()) p->set_has_grad(true);
    return run(net, Producer::AddedNorm, linear_recipe(recipe), DType::BF16);
  };
  check_same(twice("int8"), twice("int8,fuse=off"));
}

TEST_CASE("producers: a bias that several layers share gets all their sums") {
  Parameter w1(normal({kIn, kIn}, 6)), w2(normal({kIn, kIn}, 8)), bias(normal({kIn}, 7));
  const auto gradient = [&](const char* text) {
    const ForwardScope scope({.training = true, .seed = 1});
    const LinearRecipe recipe = linear_recipe(text);
    Tape tape;
    const Tape::Recording recording(tape);
    const Var x = tape.watch(normal({kRows, kIn}, 1));
    const Var hidden = linear(x, w1, &bias, recipe);
    const Var beside = linear(x, w2, &bias, recipe);  // backward: between GELU's and hidden's
    const Var y =
        linear(gelu(hidden, ops::Gelu::Tanh, wanted_of_input(w2, recipe)), w2, nullptr, recipe) +
        beside;
    tape.backward(y, normal(y.shape(), 3));
    bias.set_has_grad(false);
    const bool handed = !tape.handovers().empty() && tape.handovers().back().gradient;
    CHECK(handed == recipe.fuse);
    return bias.grad().clone();
  };
  CHECK(same_bits(gradient("int8"), gradient("int8,fuse=off")));
}

TEST_CASE("producers: frozen weights, biases and gains") {
  for (const char* frozen : {"w1", "b1", "gain", "w1 b1 w2 b2 gain offset"}) {
    CAPTURE(frozen);
    Net net;
    const std::string names = std::string(" ") + frozen + " ";
    const char* all[] = {"gain", "offset", "w1", "b1", "w2", "b2"};
    for (std::size_t i = 0; i < 6; ++i)
      net.all()[i]->requires_grad = names.find(fmt::format(" {} ", all[i])) == std::string::npos;
    for (const Producer producer : {Producer::Norm, Producer::AddedNorm})
      check_same(run(net, producer, linear_recipe("int8"), DType::F32),
                 run(net, producer, linear_recipe("int8,fuse=off"), DType::F32));
  }
}

TEST_CASE("producers: whoever looks at values finds them") {
  struct Looker : TapeObserver {
    int seen = 0;
    void output(const Op&, const Tensor& value) override { seen += value.defined(); }
    void gradient(const Op&, const Tensor& value) override { seen += value.defined(); }
  } looker;
  Net net;
  const Pass watched =
      run(net, Producer::Norm, linear_recipe("int8"), DType::F32, ops::Gelu::Tanh, false, &looker);
  CHECK(watched.handovers.empty());
  CHECK(looker.seen == 10);  // norm, linear, gelu, linear, add
  check_same(watched, run(net, Producer::Norm, linear_recipe("int8"), DType::F32));

  Tape tape;
  const Tape::Recording recording(tape);
  const LinearRecipe recipe = linear_recipe("int8");
  CHECK(wanted_of_input(net.w1, recipe).has_value());
  tape.set_check_finite(true);
  CHECK_FALSE(wanted_of_input(net.w1, recipe).has_value());
  tape.set_check_finite(false);
  Telemetry telemetry;
  const ForwardScope scope({.training = true, .telemetry = &telemetry});
  CHECK_FALSE(wanted_of_input(net.w1, recipe).has_value());
}

TEST_CASE("producers: without a tape only the codes of the forward product are made") {
  Net net;
  const LinearRecipe recipe = linear_recipe("int8");
  const Tensor x = normal({kRows, kIn}, 1);
  const auto wanted = wanted_of_input(net.w1, recipe);
  REQUIRE(wanted.has_value());
  const Var made = layer_norm(x, net.gain, &net.offset, 1e-5, wanted);
  const Encoded& encoded = std::get<Encoded>(made.value());
  CHECK(encoded.encodings().size() == 1);
  CHECK(made.shape() == x.shape());
  CHECK(made.dtype() == DType::F32);
  CHECK(made.device() == kCpu);
  CHECK(error_of([&] { made.tensor(); }) ==
        "var: expected a dense tensor, got codes; dequantize() them first");
  CHECK(same_bits(linear(made, net.w1, &net.b1, recipe).tensor(),
                  linear(layer_norm(x, net.gain, &net.offset), net.w1, &net.b1, recipe).tensor()));
}

TEST_CASE("tape: codes as a gradient only where they are wanted") {
  Tape tape;
  const Tape::Recording recording(tape);
  const Var x = tape.watch(normal({4, 8}, 1));
  const Var y = record<Offers>({&x}, x.tensor(), [] { return Offers{}; });
  CHECK(error_of([&] { tape.backward(y, x.tensor()); }) ==
        "grads: input 0 of offers wants no codes as its gradient");
  CHECK(error_of([&] { tape.want(Var(x.tensor()), Wanted{}); }) ==
        "tape: want() needs an output that this tape recorded");
}
