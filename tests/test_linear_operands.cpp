// Where the operands of a linear layer come from: producers, caches, custom quantizers; and what
// telemetry says about them.
#include <limits>

#include "autograd/telemetry.h"
#include "linear_checks.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

// Hands on x with encodings of it, as a fused producer does.
struct Producer {
  static constexpr const char* name = "producer";
  void backward(Grads& g) const { g.add(0, g.out()); }
};
Var produce(const Var& x, std::vector<std::pair<QTensor, bool>> encodings) {
  Encoded out(x.tensor());
  for (auto& [codes, transposed] : encodings) out.add(std::move(codes), transposed);
  return record<Producer>({&x}, out, [] { return Producer{}; });
}

// Multiples of `step`; its gradient is `slope` times what arrives.
class Grid : public CustomQuantizer {
 public:
  Grid(double step, double slope) : step_(step), slope_(slope) {}
  std::string name() const override { return "grid"; }
  Tensor fake_quantize(const Tensor& x, const RngKey&) const override {
    Tensor y = x.clone();
    for (std::int64_t i = 0; i < y.numel(); ++i) {
      float& v = y.data<float>()[i];
      v = static_cast<float>(std::nearbyint(v / step_) * step_);
    }
    return y;
  }
  Tensor backward(const Tensor& dy, const Tensor& x) const override {
    CHECK(dy.shape() == x.shape());
    return ops::affine(dy, slope_);
  }

 private:
  double step_, slope_;
};

Encoding custom(double step, double slope) {
  return {.quant = {}, .source = Source::Requantize, .custom = std::make_shared<Grid>(step, slope)};
}

}  // namespace

TEST_CASE("linear: takes a producer's encodings where the specs are equal") {
  const Problem p = normal_problem();
  const LinearRecipe recipe = linear_recipe("int8_rowwise");
  const QuantSpec fprop = *recipe.fprop.lhs.quant, wgrad = *recipe.wgrad.rhs.quant;
  // Codes of another tensor: the result shows whose were used.
  const Tensor other = normal(p.x.shape(), 9);
  const auto run = [&](std::vector<std::pair<QTensor, bool>> offered) {
    const ForwardScope scope({.training = true, .seed = 1});  // as run_linear
    Parameter w(p.w.clone());
    Tape tape;
    const Tape::Recording recording(tape);
    const Var x = tape.watch(p.x);
    const Var y = linear(produce(x, std::move(offered)), w, nullptr, recipe);
    tape.backward(y, p.dy);
    return Products{y.tensor(), tape.gradient(x), w.grad()};
  };
  const Products own = run({}), theirs = run({{quantize(other, fprop), false}});
  CHECK(same_bits(own.y, run_linear(recipe, p).y));
  CHECK(same_bits(theirs.y, run_linear(recipe, {other, p.w, p.dy}).y));
  CHECK(same_bits(theirs.dx, own.dx));
  CHECK(same_bits(theirs.dw, own.dw));
  const Products turned = run({{quantize(other, wgrad, {}, true), true}});
  CHECK(same_bits(turned.y, own.y));
  CHECK(same_bits(turned.dw, run_linear(recipe, {other, p.w, p.dy}).dw));
  const Products wrong = run({{quantize(other, parse_spec("int4:row")), false}});
  CHECK(same_bits(wrong.y, own.y));
}

TEST_CASE("linear: a weight is encoded once an update") {
  const Problem p = normal_problem();
  Parameter w(p.w.clone());
  const LinearRecipe recipe = linear_recipe("int8_rowwise");
  const auto y = [&] { return linear(p.x, w, nullptr, recipe).tensor(); };
  const Tensor first = y();
  const auto codes = [&](bool transposed = false) {
    return w.encoded(*recipe.fprop.rhs.quant, transposed, {}).payload();
  };
  CHECK(codes().same_storage(codes()));
  CHECK_FALSE(codes().same_storage(codes(true)));
  w.keeps_encodings = false;
  w.bump_version();
  CHECK_FALSE(codes().same_storage(codes()));
  CHECK(same_bits(codes(), codes()));
  CHECK_FALSE(w.dense(DType::BF16).same_storage(w.dense(DType::BF16)));
  w.keeps_encodings = true;
  CHECK(same_bits(y(), first));
  w.storage().copy_from(ops::affine(p.w, 2));
  CHECK(same_bits(y(), first));  // until the owner says that it changed
  const std::uint32_t version = w.version();
  w.bump_version();
  CHECK(w.version() == version + 1);
  check_close(y(), ops::affine(first, 2).to_vector<double>(), 1e-6, 1);
  CHECK(error_of([&] { w.set_value(p.x); }).find("parameter: : got shape") == 0);
  CHECK(w.shape() == p.w.shape());  // a refused value leaves the old one
}

TEST_CASE("linear: a weight stored as codes is used as it is") {
  const Problem p = normal_problem();
  const LinearRecipe recipe = linear_recipe("int8_rowwise");
  const QTensor codes = quantize(p.w, *recipe.fprop.rhs.quant);
  const ForwardScope scope({.training = true, .seed = 1});  // as run_linear
  Parameter stored(p.w.clone());
  stored.set_value(codes);
  CHECK(stored.is_quantized());
  CHECK(error_of([&] { stored.storage(); }).find("expected a dense tensor") != std::string::npos);
  Tape tape;
  const Tape::Recording recording(tape);
  const Var y = linear(tape.watch(p.x), stored, nullptr, recipe);
  CHECK(same_bits(y.tensor(), run_linear(recipe, p).y));
  tape.backward(y, p.dy);
  CHECK(stored.grad().dtype() == DType::F32);
  // However they were rounded.
  QuantSpec rounds = *recipe.fprop.rhs.quant;
  rounds.rounding = Rounding::Stochastic;
  stored.set_value(quantize(p.w, rounds, {1, 2}));
  const QTensor own = stored.encoded(*recipe.fprop.rhs.quant, false, {});
  CHECK(own.payload().same_storage(stored.quantized().payload()));
  CHECK(own.spec() == *recipe.fprop.rhs.quant);
  CHECK(distance(run_linear(recipe, p).dw, stored.grad()) < 1e-6);
}

TEST_CASE("linear: a recipe may be a temporary") {
  const ForwardScope scope({.training = true, .seed = 1});  // as run_linear
  const Problem p = normal_problem();
  Parameter w(p.w.clone());
  Tape tape;
  const Tape::Recording recording(tape);
  const Var x = tape.watch(p.x);
  const Var y = linear(x, w, nullptr, linear_recipe("int8_rowwise"));
  tape.backward(y, p.dy);
  CHECK(same_bits(w.grad(), run_linear(linear_recipe("int8_rowwise"), p).dw));
}

TEST_CASE("linear: custom quantizers work on either side, with their own gradients") {
  const Problem p = normal_problem();
  const Grid grid(0.25, 1);
  const Tensor x = grid.fake_quantize(p.x, {}), w = grid.fake_quantize(p.w, {}),
               dy = grid.fake_quantize(p.dy, {});
  const Products none = run_linear({}, p);

  LinearRecipe left;
  left.fprop.lhs = custom(0.25, 3);
  Products got = run_linear(left, p);
  CHECK(distance(ops::matmul(x, p.w.t()), got.y) < 1e-6);
  CHECK(distance(ops::affine(none.dx, 3), got.dx) < 1e-6);
  CHECK(same_bits(got.dw, none.dw));

  LinearRecipe right;
  right.fprop.rhs = custom(0.25, -2);
  got = run_linear(right, p);
  CHECK(distance(ops::matmul(p.x, w.t()), got.y) < 1e-6);
  CHECK(same_bits(got.dx, none.dx));
  CHECK(distance(ops::affine(none.dw, -2), got.dw) < 1e-6);

  LinearRecipe all = left;
  all.fprop.rhs = custom(0.25, 1);
  all.fprop.lhs = custom(0.25, 1);
  all.dgrad = {custom(0.25, 100), {}, Mode::Simulated};  // of dy: its gradient is nobody's
  all.dgrad.rhs.source = all.wgrad.rhs.source = Source::ReuseForward;
  got = run_linear(all, p);
  CHECK(distance(ops::matmul(dy, w), got.dx) < 1e-6);
  CHECK(distance(ops::matmul(p.dy.t(), x), got.dw) < 1e-6);

  LinearRecipe transposed;
  transposed.wgrad = {custom(0.25, 1), custom(0.25, 1), Mode::Simulated};
  CHECK(distance(ops::matmul(dy.t(), x), run_linear(transposed, p).dw) < 1e-6);
}

TEST_CASE("linear: custom gradients accumulate over uses of a weight") {
  const Problem p = normal_problem();
  LinearRecipe right;
  right.fprop.rhs = custom(0.25, 2);
  Parameter w(p.w.clone());
  for (int i = 0; i < 2; ++i) {
    Tape tape;
    const Tape::Recording recording(tape);
    tape.backward(linear(tape.watch(p.x), w, nullptr, right), p.dy);
  }
  CHECK(distance(ops::affine(run_linear({}, p).dw, 4), w.grad()) < 1e-6);
}

TEST_CASE("telemetry: a case by hand") {
  const Tensor x =
      Tensor::from(std::vector<float>{3, -1.5f, 0.1f, 0, 1, 0.5f, -0.5f, 0.2f}, {1, 8});
  const QuantSpec spec = parse_spec("int3:tensor:const1.5");  // steps of 0.5, codes −4 … 3
  Telemetry telemetry;
  CHECK(telemetry.empty());
  telemetry.record("layer", "fprop.lhs", x, fake_quantize(x, spec), spec);
  const QuantStats s = telemetry.stats().at({"layer", "fprop.lhs"});
  CHECK(s.count == 8);
  CHECK(s.absmax == 3);
  CHECK(s.clipped == doctest::Approx(1. / 8));  // 3 → 1.5
  CHECK(s.flushed == doctest::Approx(2. / 7));  // 0.1 and 0.2
  const double signal = 9 + 2.25 + 0.01 + 1 + 0.25 + 0.25 + 0.04, noise = 2.25 + 0.01 + 0.04;
  CHECK(s.sqnr_db == doctest::Approx(10 * std::log10(signal / noise)).epsilon(1e-6));
  telemetry.record("layer", "fprop.lhs", x, x, spec);  // merged
  const QuantStats merged = telemetry.stats().at({"layer", "fprop.lhs"});
  CHECK(merged.count == 16);
  CHECK(merged.sqnr_db == doctest::Approx(10 * std::log10(2 * signal / noise)).epsilon(1e-6));
  telemetry.clear();
  CHECK(telemetry.empty());
}

TEST_CASE("telemetry: every encoded operand reports under its module and role") {
  const Problem p = normal_problem();
  Telemetry telemetry;
  const std::string path = "blocks.0.fc1";
  const auto roles = [&](const char* recipe) {
    telemetry.clear();
    const ForwardScope scope({.training = true, .telemetry = &telemetry});
    const ModuleScope module(path);
    Parameter w(p.w.clone());
    Tape tape;
    const Tape::Recording recording(tape);
    const Var x = tape.watch(p.x);
    tape.backward(linear(x, w, nullptr, linear_recipe(recipe)), p.dy);
    std::string all;
    for (const auto& [key, s] : telemetry.stats()) {
      CHECK(key.first == path);
      CHECK(s.sqnr_db > 20);
      CHECK(s.clipped == 0);
      all += key.second + " ";
    }
    return all;
  };
  CHECK(roles("none") == "");
  CHECK(roles("w8a8g8") == "fprop.lhs fprop.rhs wgrad.lhs ");
  CHECK(roles("int8_rowwise,wgrad=none") == "dgrad.lhs dgrad.rhs fprop.lhs fprop.rhs ");
  CHECK(telemetry.stats().at({path, "dgrad.lhs"}).count == p.dy.numel());
}
