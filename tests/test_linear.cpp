// Linear layers under recipes: what a quantized backward pass can be held to, since differences
// cannot (design.md 3.11).
#include "linear_checks.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

const std::vector<std::string> kInt8{"int8", "int8_rowwise", "int8_block128", "int8_switchback",
                                     "int8_block32"};
const std::vector<std::string> kFp8{"fp8_tensorwise", "fp8_delayed", "fp8_rowwise", "fp8_block128"};

std::vector<std::string> real_presets() {
  std::vector<std::string> all = kInt8;
  all.insert(all.end(), kFp8.begin(), kFp8.end());
  return all;
}

LinearRecipe simulated(LinearRecipe r) {
  for (GemmRecipe* g : {&r.fprop, &r.dgrad, &r.wgrad}) g->mode = Mode::Simulated;
  return r;
}

// Multiples of `unit` up to `largest` of them, which stands in the first row and column of every
// 32 × 32 patch, so that every tile's step is exactly one power of two.
Tensor representable(const Shape& shape, int largest, double unit, std::uint32_t site) {
  Tensor x = random(shape, DType::F32, -largest, largest, site);
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    float& v = x.data<float>()[i];
    const bool edge = i / shape[1] % 32 == 0 || i % shape[1] % 32 == 0;
    v = static_cast<float>(unit * (edge ? largest : std::round(static_cast<double>(v))));
  }
  return x;
}

}  // namespace

TEST_CASE("linear: what the codes represent exactly gives the float result, bit for bit") {
  const Problem ints{representable({32, 64}, 127, 0.25, 1), representable({64, 64}, 127, 2, 2),
                     representable({32, 64}, 127, 0.5, 3)};
  // 448 = 7 · 64 and 57344 = 7 · 8192 are the largest numbers of e4m3 and e5m2.
  const Problem floats{representable({32, 64}, 7, 64, 1), representable({64, 64}, 7, 64, 2),
                       representable({32, 64}, 7, 8192, 3)};
  for (const std::string& name : real_presets()) {
    CAPTURE(name);
    const bool fp8 = name.starts_with("fp8");
    Problem p = fp8 ? floats : ints;
    if (name == "fp8_block128") p.dy = representable({32, 64}, 7, 64, 3);  // e4m3 gradients
    for (const bool real : {true, false}) {
      const LinearRecipe recipe = linear_recipe(name);
      const Products got = run_linear(real ? recipe : simulated(recipe), p),
                     expected = run_linear({}, p);
      CHECK(same_bits(got.y, expected.y));
      CHECK(same_bits(got.dx, expected.dx));
      CHECK(same_bits(got.dw, expected.dw));
    }
  }
}

TEST_CASE("linear: real products equal simulated ones of the same codes") {
  const Problem p = normal_problem(160, 192, 144);
  for (const std::string& name : real_presets()) {
    CAPTURE(name);
    const LinearRecipe recipe = linear_recipe(name);
    const Products real = run_linear(recipe, p), twin = run_linear(simulated(recipe), p);
    CHECK(distance(real.y, twin.y) < 1e-6);
    CHECK(distance(real.dx, twin.dx) < 1e-6);
    CHECK(distance(real.dw, twin.dw) < 1e-6);
  }
}

TEST_CASE("linear: int8 keeps 20 dB in every product") {
  const Problem p = normal_problem(256, 192, 128);
  const Products exact = run_linear({}, p);
  for (const std::string& name : kInt8) {
    CAPTURE(name);
    const Products got = run_linear(linear_recipe(name), p);
    CHECK(sqnr_db(exact.y, got.y) > 20);
    CHECK(sqnr_db(exact.dx, got.dx) > 20);
    CHECK(sqnr_db(exact.dw, got.dw) > 20);
    CHECK(sqnr_db(exact.y, got.y) < 60);  // it did quantize
  }
}

TEST_CASE("linear: stochastic gradients are unbiased over keys") {
  const Problem p = normal_problem(16, 24, 16);
  LinearRecipe recipe = linear_recipe("int8_rowwise"), expected = simulated(recipe);
  recipe.dgrad.lhs = encoding("int4:row:sr:recip");  // coarse: a bias would show
  recipe.wgrad.lhs = encoding("int4:row:sr:recip");
  expected.dgrad.lhs = expected.wgrad.lhs = {};
  const Products exact = run_linear(expected, p);
  constexpr int kKeys = 128;
  std::vector<Tensor> dx, dw;
  for (int seed = 0; seed < kKeys; ++seed) {
    const Products r = run_linear(recipe, p, static_cast<std::uint64_t>(seed));
    dx.push_back(r.dx);
    dw.push_back(r.dw.clone());
  }
  CHECK_FALSE(same_bits(dx[0], dx[1]));
  const auto check_mean = [&](const std::vector<Tensor>& samples, const Tensor& mean) {
    const std::vector<double> m = mean.to_vector<double>();
    double worst = 0;
    for (std::size_t i = 0; i < m.size(); ++i) {
      double sum = 0, squares = 0;
      for (const Tensor& s : samples) {
        const double e = static_cast<double>(s.data<float>()[i]) - m[i];
        sum += e, squares += e * e;
      }
      const double average = sum / kKeys, variance = squares / kKeys - average * average;
      worst = std::max(worst, std::abs(average) / (std::sqrt(variance / kKeys) + 1e-6));
    }
    CHECK(worst < 5);
  };
  check_mean(dx, exact.dx);
  check_mean(dw, exact.dw);
}

TEST_CASE("linear: a product's encodings change that product alone") {
  const Problem p = normal_problem();
  const LinearRecipe full = linear_recipe("int8_rowwise");
  const Products all = run_linear(full, p), none = run_linear({}, p);
  for (int product = 0; product < 3; ++product) {
    CAPTURE(product);
    LinearRecipe off = full, on;
    const auto gemm = [&](LinearRecipe& r) -> GemmRecipe& {
      return product == 0 ? r.fprop : product == 1 ? r.dgrad : r.wgrad;
    };
    gemm(off) = {};
    if (product == 2) off.save = Save::Original;
    gemm(on) = gemm(const_cast<LinearRecipe&>(full));
    const Products without = run_linear(off, p), alone = run_linear(on, p);
    CHECK(same_bits(without.y, product == 0 ? none.y : all.y));
    CHECK(same_bits(without.dx, product == 1 ? none.dx : all.dx));
    CHECK(same_bits(without.dw, product == 2 ? none.dw : all.dw));
    CHECK(same_bits(alone.y, product == 0 ? all.y : none.y));
    CHECK(same_bits(alone.dx, product == 1 ? all.dx : none.dx));
    CHECK(same_bits(alone.dw, product == 2 ? all.dw : none.dw));
  }
  CHECK_FALSE(same_bits(all.y, none.y));
  CHECK_FALSE(same_bits(all.dx, none.dx));
  CHECK_FALSE(same_bits(all.dw, none.dw));
}

TEST_CASE("linear: the study's backward passes are their formulas") {
  const Problem p = normal_problem();
  const QuantSpec row = parse_spec("int8:row:floor1e-05"),
                  gradient = parse_spec("int8:row:floor1e-09");
  const Tensor x = fake_quantize(p.x, row), w = fake_quantize(p.w, row),
               dy = fake_quantize(p.dy, gradient);
  const auto dx_of = [](const Tensor& g, const Tensor& weight) { return ops::matmul(g, weight); };
  const auto dw_of = [](const Tensor& g, const Tensor& input) { return ops::matmul(g.t(), input); };
  struct Case {
    const char* name;
    Tensor dx, dw;
  };
  for (const Case& c : {Case{"w8a8g8", dx_of(p.dy, p.w), dw_of(dy, p.x)},
                        Case{"w8a8g8_ste", dx_of(p.dy, w), dw_of(dy, x)},
                        Case{"w8a8g8_tim", dx_of(dy, p.w), dw_of(p.dy, p.x)}}) {
    CAPTURE(c.name);
    const Products got = run_linear(linear_recipe(c.name), p);
    CHECK(distance(ops::matmul(x, w.t()), got.y) < 1e-6);
    CHECK(distance(c.dx, got.dx) < 1e-6);
    CHECK(distance(c.dw, got.dw) < 1e-6);
  }
  CHECK(distance(p.x, x) > 1e-3);  // a confusion of x and x̂ would show
}

TEST_CASE("linear: Q, K and V's gradients share no scale under row_splits") {
  Problem p = normal_problem(16, 24, 16);
  for (int part = 0; part < 3; ++part) {
    Tensor third = p.dy.slice(1, 8 * part, 8 * part + 8);
    third.copy_from(ops::affine(third, std::pow(100.0, part)));
  }
  LinearRecipe recipe;
  recipe.wgrad.lhs = encoding("int8:tensor:rowsplit3");
  const Products got = run_linear(recipe, p);
  for (int part = 0; part < 3; ++part) {
    const Tensor third = ops::contiguous(p.dy.slice(1, 8 * part, 8 * part + 8));
    const Tensor expected = ops::matmul(fake_quantize(third, parse_spec("int8:tensor")).t(), p.x);
    CHECK(distance(expected, got.dw.slice(0, 8 * part, 8 * part + 8)) < 1e-6);
  }
}

TEST_CASE("linear: saving codes equals encoding again from the original") {
  const Problem p = normal_problem(64, 96, 64);
  for (const char* name :
       {"int8", "int8_rowwise", "int8_block128", "int8_block32", "fp8_tensorwise", "fp8_rowwise"}) {
    CAPTURE(name);
    LinearRecipe saved = linear_recipe(name), original = saved;
    saved.save = Save::Encoded;
    original.save = Save::Original;
    CHECK(same_bits(run_linear(saved, p).dw, run_linear(original, p).dw));
    CHECK(same_bits(run_linear(simulated(saved), p).dw, run_linear(simulated(original), p).dw));
  }
}

TEST_CASE("linear: bf16 activations under real products") {
  const Problem p = normal_problem();
  const Problem narrow{p.x.to(DType::BF16), p.w, p.dy.to(DType::BF16)};
  const Products exact = run_linear({}, p), got = run_linear(linear_recipe("int8"), narrow);
  CHECK(got.y.dtype() == DType::BF16);
  CHECK(got.dx.dtype() == DType::BF16);
  CHECK(got.dw.dtype() == DType::F32);
  CHECK(sqnr_db(exact.y, got.y) > 20);
  CHECK(sqnr_db(exact.dx, got.dx) > 20);
  CHECK(sqnr_db(exact.dw, got.dw) > 20);
}

TEST_CASE("linear: says what does not fit") {
  Parameter w(normal({4, 3}, 1)), b(normal({3}, 2));
  w.name = "fc.weight";
  CHECK(error_of([&] {
          linear(normal({2, 4}, 3), w, nullptr, {});
        }) == "linear: got x [2, 4] and weight [4, 3] (fc.weight), expected [..., K] and [N, K]");
  CHECK(error_of([&] {
          linear(normal({2, 3}, 3), w, &b, {});
        }) == "linear: got bias [3], expected [4]");
}
