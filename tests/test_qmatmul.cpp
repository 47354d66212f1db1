// matmul_nt: which pairs of operands multiply, what they give, what they say when they cannot.
#include <doctest/doctest.h>

#include <cmath>
#include <tuple>

#include "quant/product.h"
#include "quant/qtensor.h"
#include "tensor/ops.h"
#include "tensor/thread_pool.h"

using namespace nibble;

namespace {

Tensor normal(std::int64_t rows, std::int64_t cols, std::uint32_t site) {
  return Tensor::normal({rows, cols}, 0, 1, RngKey{.seed = 5, .site = site});
}
QTensor encode(const Tensor& x, const char* spec) { return quantize(x, parse_spec(spec)); }

// a·bᵀ of dense matrices in f64.
std::vector<double> exact(const Tensor& a, const Tensor& b) {
  return ops::matmul(a.to(DType::F64), b.to(DType::F64).t()).to_vector<double>();
}
double signal_to_noise(const std::vector<double>& truth, const Tensor& y) {
  const auto values = y.to_vector<double>();
  double signal = 0, noise = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    signal += truth[i] * truth[i];
    noise += (values[i] - truth[i]) * (values[i] - truth[i]);
  }
  return 10 * std::log10(signal / noise);
}

}  // namespace

TEST_CASE("matmul_nt: real products equal the decoded ones") {
  // Both decode to the same values; only the order of roundings differs.
  const std::pair<const char*, const char*> pairs[] = {
      {"int8:row", "int8:row"},
      {"int8:tensor", "int8:row:recip"},
      {"int8:row", "int4:row"},
      {"int8:group32", "int8:block32"},
      {"int4:group32:packed", "int8:row"},
      {"uint8:row:asym", "int8:row"},
      {"int8:row:asym", "uint4:tensor:asym:packed"},
      {"int8:row:pow2", "int8:row:bf16"},
      {"int8:group32:e8m0", "int5:group32"},
      {"int8:row:split3", "int8:row"},
      {"int8:tensor:rowsplit3", "int8:tile2x33"},
      {"e4m3:row", "e4m3:row"},
      {"e5m2:tensor", "e4m3:row"},
      {"e4m3:group32", "e4m3:block32"},
      {"e2m1:group32:e8m0:packed", "e4m3:row"},
      {"e2m1:group16:twolevel", "e2m3:group16"},
  };
  const Tensor a = normal(51, 99, 1), b = normal(37, 99, 2), bias = normal(1, 37, 3).view({37});
  for (const auto& [left, right] : pairs) {
    CAPTURE(left);
    CAPTURE(right);
    const QTensor qa = encode(a, left), qb = encode(b, right);
    const Tensor real = matmul_nt(qa, qb, {.mode = Mode::Real, .out = DType::F32, .bias = bias});
    const auto truth = exact(dequantize(qa), dequantize(qb));
    const auto values = real.to_vector<double>();
    double scale = 0, error = 0;
    for (std::size_t i = 0; i < truth.size(); ++i) {
      const double expected = truth[i] + static_cast<double>(bias.data<float>()[i % 37]);
      scale = std::max(scale, std::abs(expected));
      error = std::max(error, std::abs(values[i] - expected));
    }
    CHECK(error <= scale * 2e-6);
    const Tensor simulated =
        matmul_nt(qa, qb, {.mode = Mode::Simulated, .out = DType::F32, .bias = bias});
    const auto decoded = simulated.to_vector<double>();
    for (std::size_t i = 0; i < truth.size(); ++i)
      CHECK(std::abs(decoded[i] - values[i]) <= scale * 4e-6);
  }
}

TEST_CASE("matmul_nt: power-of-two steps make real, simulated and exact products equal") {
  const Tensor a = normal(20, 64, 1), b = normal(24, 64, 2);
  for (const char* spec : {"int8:row:pow2", "int4:group32:pow2", "e4m3:row:pow2"}) {
    CAPTURE(spec);
    const QTensor qa = encode(a, spec), qb = encode(b, spec);
    const Tensor da = dequantize(qa), db = dequantize(qb);
    const auto truth = exact(da, db);
    const std::vector<float> rounded(truth.begin(), truth.end());
    CHECK(matmul_nt(qa, qb).to_vector() == rounded);
    CHECK(matmul_nt(qa, qb, {.mode = Mode::Simulated, .out = DType::F32, .bias = {}}).to_vector() ==
          rounded);
    CHECK(matmul_nt(da, db).to_vector() == rounded);
  }
}

// Tier: exact.
TEST_CASE("matmul_nt: GELU at the end equals GELU of the product") {
  const Tensor x = Tensor::uniform({9, 64}, -2, 2, RngKey{1, 1}),
               w = Tensor::uniform({7, 64}, -1, 1, RngKey{1, 2}),
               bias = Tensor::uniform({7}, -1, 1, RngKey{1, 3});
  for (const auto& [lhs, rhs] :
       {std::array{"int8:row", "int8:row"}, std::array{"int8:group32", "int8:group32"},
        std::array{"uint8:row:asym", "int8:row"}, std::array{"e4m3:row", "e4m3:row"}})
    for (const Mode mode : {Mode::Real, Mode::Simulated})
      for (const DType out : {DType::F32, DType::BF16}) {
        const QTensor a = quantize(x, parse_spec(lhs)), b = quantize(w, parse_spec(rhs));
        const Tensor product = matmul_nt(a, b, {.mode = mode, .out = out, .bias = bias});
        Tensor before;
        const Tensor y = matmul_nt(
            a, b, {.mode = mode, .out = out, .bias = bias, .gelu = true, .before = &before});
        CHECK(before.to_vector() == product.to_vector());
        CHECK(y.to_vector() == ops::gelu(product).to_vector());
        const Tensor alone =
            matmul_nt(a, b, {.mode = mode, .out = out, .bias = bias, .gelu = true});
        CHECK(alone.to_vector() == y.to_vector());
      }
  Tensor before;
  CHECK_THROWS_WITH_AS(matmul_nt(x, w, {.bias = {}, .before = &before}),
                       doctest::Contains("without gelu"), Error);
}

TEST_CASE("matmul_nt: int8 keeps 20 dB in all three products") {
  const Tensor x = normal(160, 96, 1), w = normal(112, 96, 2), dy = normal(160, 112, 3);
  const auto row = parse_spec("int8:row:recip"), stochastic = parse_spec("int8:row:recip:sr");
  const auto check = [](const Tensor& a, const Tensor& b, const QTensor& qa, const QTensor& qb) {
    CHECK(signal_to_noise(exact(a, b), matmul_nt(qa, qb)) >= 20);
  };
  check(x, w, quantize(x, row), quantize(w, row));
  check(dy, w.t(), quantize(dy, stochastic), quantize(w, row, {}, true));
  check(dy.t(), x.t(), quantize(dy, stochastic, {}, true), quantize(x, row, {}, true));
}

TEST_CASE("matmul_nt: dense operands, any mode, any float dtype") {
  const Tensor a = normal(6, 10, 1), b = normal(7, 10, 2);
  const auto truth = exact(a, b);
  for (const Mode mode : {Mode::Real, Mode::Simulated}) {
    const auto y = matmul_nt(a, b, {.mode = mode, .out = DType::F32, .bias = {}});
    for (std::size_t i = 0; i < truth.size(); ++i)
      CHECK(y.to_vector<double>()[i] == doctest::Approx(truth[i]).epsilon(1e-5));
  }
  const Tensor y64 = matmul_nt(a.to(DType::F64), b.to(DType::F64),
                               {.mode = Mode::Real, .out = DType::F64, .bias = {}});
  CHECK(y64.to_vector<double>() == truth);
  const Tensor narrow = matmul_nt(a, b, {.mode = Mode::Real, .out = DType::BF16, .bias = {}});
  CHECK(narrow.dtype() == DType::BF16);
  CHECK(narrow.to_vector() == matmul_nt(a, b).to(DType::BF16).to_vector());
}

TEST_CASE("matmul_nt: simulated takes any spec on either side") {
  const Tensor a = normal(12, 48, 1), b = normal(9, 48, 2);
  for (const char* spec : {"int4:col", "uint4:row:asym", "dyn8:group16", "int8:col:rowsplit3"}) {
    CAPTURE(spec);
    const QTensor q = encode(a, spec);
    const MatmulOptions simulated{.mode = Mode::Simulated, .out = DType::F32, .bias = {}};
    CHECK(matmul_nt(q, b, simulated).to_vector() == matmul_nt(dequantize(q), b).to_vector());
    CHECK(matmul_nt(b, q, simulated).to_vector() == matmul_nt(b, dequantize(q)).to_vector());
  }
}

TEST_CASE("matmul_nt: an Encoded stands for its only encoding, or its dense tensor") {
  const Tensor a = normal(5, 32, 1), b = normal(6, 32, 2);
  const QTensor qa = encode(a, "int8:row"), qb = encode(b, "int8:row");
  Encoded one;
  one.add(qa);
  CHECK(matmul_nt(one, qb).to_vector() == matmul_nt(qa, qb).to_vector());
  CHECK(matmul_nt(Encoded(a), b).to_vector() == matmul_nt(a, b).to_vector());
  one.add(encode(a, "int8:tensor"));
  CHECK_THROWS_WITH(matmul_nt(one, qb),
                    "matmul_nt: lhs offers 2 encodings, expected at most one; pass the QTensor to "
                    "multiply");
  CHECK_THROWS_WITH(matmul_nt(Tensor(), qb), "matmul_nt: lhs is undefined");
}

TEST_CASE("matmul_nt_into: overwrites or adds, in f32 and bf16") {
  const Tensor a = normal(10, 40, 1), b = normal(11, 40, 2);
  const std::pair<Value, Value> operands[] = {
      {encode(a, "int8:row"), encode(b, "int8:row")},
      {encode(a, "e4m3:row"), encode(b, "e4m3:row")},
      {a, b},
  };
  for (const auto& [left, right] : operands)
    for (const DType dtype : {DType::F32, DType::BF16}) {
      const Tensor y = matmul_nt(left, right);
      Tensor c = Tensor::full({10, 11}, 2.0, dtype);
      const auto version = c.version();
      matmul_nt_into(c, left, right, Mode::Real, true);
      CHECK(c.to_vector() == ops::affine(y, 1, 2).to(dtype).to_vector());
      CHECK(c.version() > version);
      matmul_nt_into(c, left, right, Mode::Real, false);
      CHECK(c.to_vector() == y.to(dtype).to_vector());
    }
}

TEST_CASE("matmul_nt: transposed codes are copied K-major first") {
  const Tensor w = normal(64, 48, 1), dy = normal(9, 64, 2);
  const QTensor q = encode(w, "int8:tensor"), d = encode(dy, "int8:row");
  const Tensor dx = matmul_nt(d, q.t_contiguous());
  CHECK(signal_to_noise(exact(dy, w.t()), dx) >= 20);
  CHECK_THROWS_WITH(matmul_nt(d, q.t()),
                    "matmul_nt: rhs payload is not K-major (a transposed view of int8:tensor); use "
                    "t_contiguous()");
}

TEST_CASE("matmul_nt: columns of longer codes are the codes by themselves") {
  const Tensor x = normal(9, 512, 1), w = normal(11, 512, 2);
  for (const auto& [lhs, rhs, block] :
       {std::tuple{"int8:group64", "int8:group64", 64}, std::tuple{"int8:row", "int8:row", 512},
        std::tuple{"int8:group64", "int8:row", 64},
        std::tuple{"uint8:group64:asym", "int8:row", 64},
        std::tuple{"e4m3:group64", "e4m3:row", 64}}) {
    CAPTURE(lhs);
    const auto columns = [each = block](const QTensor& q, bool apart) {
      const auto part = [&](const Tensor& t, std::int64_t codes) {
        if (!t.defined() || t.size(1) == 1) return t;
        const Tensor s = t.slice(1, 128 / codes, 384 / codes);
        return apart ? s : s.clone();
      };
      return QTensor(part(q.payload(), 1), part(q.scales(), each), part(q.zeros(), each),
                     q.global_scale(), q.spec(), {q.rows(), 256});
    };
    const QTensor a = encode(x, lhs), b = encode(w, rhs);
    for (const Mode mode : {Mode::Real, Mode::Simulated})
      CHECK(
          matmul_nt(columns(a, true), columns(b, true), {.mode = mode, .bias = {}}).to_vector() ==
          matmul_nt(columns(a, false), columns(b, false), {.mode = mode, .bias = {}}).to_vector());
  }
}

TEST_CASE("matmul_nt: a bf16 bias is the same numbers in f32") {
  const Tensor bias = normal(1, 7, 3).to(DType::BF16).view({7});
  const Tensor x = normal(5, 64, 1), w = normal(7, 64, 2);
  for (const char* spec : {"int8:row", "int8:group32", "uint8:row:asym", "int4:row", "e4m3:row"})
    for (const DType out : {DType::F32, DType::BF16})
      for (const bool gelu : {false, true}) {
        const QTensor a = encode(x, spec), b = encode(w, spec);
        CHECK(matmul_nt(a, b, {.out = out, .bias = bias, .gelu = gelu}).to_vector() ==
              matmul_nt(a, b, {.out = out, .bias = bias.to(DType::F32), .gelu = gelu}).to_vector());
      }
}

TEST_CASE("matmul_nt: not-finite inputs give not-finite results") {
  Tensor a = normal(3, 32, 1), b = normal(4, 32, 2);
  a.data<float>()[40] = std::numeric_limits<float>::infinity();
  for (const char* spec : {"int8:row", "uint8:row:asym", "e4m3:row"}) {
    CAPTURE(spec);
    const Tensor y = matmul_nt(encode(a, spec), encode(b, spec));
    for (std::int64_t j = 0; j < 4; ++j) {
      CHECK(std::isfinite(y.data<float>()[j]));
      CHECK(!std::isfinite(y.data<float>()[4 + j]));
    }
  }
}

TEST_CASE("matmul_nt: the same bits at any number of threads") {
  const Tensor a = normal(200, 160, 1), b = normal(150, 160, 2);
  const int threads = num_threads();
  for (const char* spec : {"int8:row", "int8:block32", "e4m3:group32"}) {
    const QTensor qa = encode(a, spec), qb = encode(b, spec);
    set_num_threads(1);
    const auto one = matmul_nt(qa, qb).to_vector();
    set_num_threads(3);
    CHECK(matmul_nt(qa, qb).to_vector() == one);
  }
  set_num_threads(threads);
}

TEST_CASE("matmul_nt: what cannot be multiplied says why") {
  const Tensor a = normal(8, 96, 1), b = normal(6, 96, 2);
  const auto real = [&](const char* left, const char* right) {
    return matmul_nt(encode(a, left), encode(b, right));
  };
  CHECK_THROWS_WITH(real("int8:row", "int8:col"),
                    "matmul_nt: rhs scale varies along the contraction axis (tile {0, 1} on [6, "
                    "96]); quantize the transpose or use group(128)");
  CHECK_THROWS_WITH(real("int8:group8", "int8:row"),
                    "matmul_nt: lhs scale varies along the contraction axis (tile {1, 8} on [8, "
                    "96]); quantize the transpose or use group(128)");
  CHECK_THROWS_WITH(real("int8:group32", "int8:group48"),
                    "matmul_nt: scales run over 32 codes of the contraction in lhs but 48 codes in "
                    "rhs; use equal groups, or one scale for the whole contraction in one of them");
  CHECK_THROWS_WITH(real("int8:row", "e4m3:row"),
                    "matmul_nt: lhs is int8 and rhs is e4m3; encode both as integers or both as "
                    "floats");
  CHECK_THROWS_WITH(real("dyn8:row", "int8:row"),
                    "matmul_nt: lhs codes (dyn8) index a code book and cannot be multiplied; use "
                    "an integer or float format, or mode simulated");
  CHECK_THROWS_WITH(real("int8:row:bf16math", "int8:row"),
                    "matmul_nt: lhs is decoded in bf16 arithmetic, which products of codes do not "
                    "follow; use mode simulated");
  CHECK_THROWS_WITH(matmul_nt(encode(a, "int8:row"), b),
                    "matmul_nt: a real product needs two encoded operands: got int8:row [8, 96] on "
                    "cpu and f32[6, 96] on cpu; encode both, or use mode simulated");
  CHECK_THROWS_WITH(matmul_nt(a, b.slice(1, 0, 95)),
                    "matmul_nt: inner extents differ: got f32[8, 96] on cpu and f32[6, 95] on cpu, "
                    "expected [M, K] and [N, K]");
  CHECK_THROWS_WITH(matmul_nt(a, b, {.mode = Mode::Real, .out = DType::F32, .bias = a}),
                    "matmul_nt: bias: got f32[8, 96] on cpu, expected floats of shape [6]");
  CHECK_THROWS_WITH(matmul_nt(encode(a, "int8:row"), encode(b, "int8:row"),
                              {.mode = Mode::Real, .out = DType::F64, .bias = {}}),
                    "matmul_nt: a real product writes f32 or bf16: got f64");
}

TEST_CASE("check_real_product: with and without the contraction's extent") {
  const auto check = [](const char* a, const char* b, std::int64_t k) {
    check_real_product(parse_spec(a), parse_spec(b), k, "here");
  };
  CHECK_NOTHROW(check("int8:row", "int8:tensor", 0));
  CHECK_NOTHROW(check("int8:group128", "int8:block128", 0));
  CHECK_NOTHROW(check("int8:group128", "int8:row", 0));
  CHECK_NOTHROW(check("int8:row:split3", "int8:row", 768));
  CHECK_NOTHROW(check("int8:col", "int8:row", 1));  // one code: nothing varies
  CHECK_NOTHROW(check("int8:group128", "int8:group64", 64));
  CHECK_THROWS_WITH(check("int8:group128", "int8:group64", 0),
                    "here: scales run over 128 codes of the contraction in lhs but 64 codes in "
                    "rhs; use equal groups, or one scale for the whole contraction in one of them");
  CHECK_THROWS_WITH(check("int8:row:split3", "int8:row:split2", 0),
                    "here: scales run over 3 parts of the contraction in lhs but 2 parts in rhs; "
                    "use equal groups, or one scale for the whole contraction in one of them");
  CHECK_THROWS_WITH(check("int8:row", "int8:col", 3072),
                    "here: rhs scale varies along the contraction axis (tile {0, 1}, K = 3072); "
                    "quantize the transpose or use group(128)");
}
