// Laws of quantize / dequantize / fake_quantize over a table of specs.
#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "tensor/thread_pool.h"
#include "tests/quant_checks.h"

namespace nibble {
namespace {
using namespace quant_checks;

TEST_CASE("quant: one pass equals encoding and decoding, in every dtype") {
  const Tensor x = sample();
  for (const QuantSpec& s : specs()) {
    CAPTURE(to_string(s));
    for (const DType dtype : {DType::F32, DType::BF16, DType::F64}) {
      const Tensor in = x.to(dtype);
      const QTensor q = quantize(in, s, kKey);
      CHECK(bytes_of(fake_quantize(in, s, kKey)) == bytes_of(dequantize(q, dtype)));
      // Other dtypes are read as f32.
      CHECK(same(q, quantize(in.to(DType::F32), s, kKey)));
    }
  }
}

TEST_CASE("quant: transposing commutes with encoding, for every spec") {
  const Tensor x = sample(), xt = x.t().clone();
  for (const QuantSpec& s : specs()) {
    CAPTURE(to_string(s));
    const QTensor q = quantize(x, s, kKey);
    const QTensor turned = quantize(x, s.t(), kKey, true);
    CHECK(same(turned, q.t_contiguous()));
    CHECK(same(q.t_contiguous().t_contiguous(), q));
    // Sums over a tile may round apart when it is read the other way round.
    if (s.rounding == Rounding::Nearest && s.calibration.kind != Calibration::Kind::AbsMean)
      CHECK(same(quantize(xt, s.t()), turned));
    const Tensor y = dequantize(q);
    CHECK(bytes_of(dequantize(q.t())) == bytes_of(y.t().clone()));
    CHECK(bytes_of(dequantize(turned)) == bytes_of(y.t().clone()));
    const auto [a, b] = quantize_pair(x, s, s.t(), kKey);
    CHECK(same(a, q));
    CHECK(same(b, turned));
  }
  const QuantSpec rows = parse_spec("int8:row:sr");
  const auto [a, b] = quantize_pair(x, rows, rows, kKey);
  CHECK(same(a, quantize(x, rows, kKey)));
  CHECK(same(b, quantize(x, rows, kKey, true)));
}

TEST_CASE("quant: the same bits at any number of threads") {
  const int before = num_threads();
  const Tensor x = sample(300, 700);
  for (const char* text : {"int8:row:sr", "int8:tensor", "int8:col", "int8:block64", "uint8:asym",
                           "dyn8:group256", "int8:absmean2", "int4:mse8:group32", "e4m3:sr"}) {
    INFO("spec ", std::string(text));
    const QuantSpec s = parse_spec(text);
    set_num_threads(1);
    const QTensor one = quantize(x, s, kKey), turned = quantize(x, s, kKey, true);
    for (const int threads : {2, 4}) {
      set_num_threads(threads);
      CHECK(same(quantize(x, s, kKey), one));
      CHECK(same(quantize(x, s, kKey, true), turned));
    }
  }
  set_num_threads(before);
}

TEST_CASE("quant: integers decode within half a step") {
  const Tensor x = sample();
  const auto in = x.to_vector<float>();
  for (const QuantSpec& s : specs()) {
    if (!s.format.is_integer() || s.rounding == Rounding::Stochastic || s.floor.relative ||
        s.calibration != Calibration{} || s.arithmetic == Arithmetic::BF16 ||
        s.scale == ScaleType::TwoLevel || (s.symmetric && !s.format.is_signed()))
      continue;
    CAPTURE(to_string(s));
    const QTensor q = quantize(x, s);
    const auto out = dequantize(q).to_vector<float>();
    const auto steps = q.scales_f32().to_vector<float>();
    const Tile tile = s.resolve(kRows, kCols);
    const std::int64_t tile_cols = q.scales().size(1);
    // A rounded zero point shifts the grid by up to half a step; bf16 steps may be a bit short.
    const double slack = s.symmetric ? (s.scale == ScaleType::BF16 ? 0.5 + 127.0 / 256 : 0.5) : 1.0;
    for (std::int64_t i = 0; i < kRows * kCols; ++i) {
      const auto e = static_cast<std::size_t>(i);
      const auto t =
          static_cast<std::size_t>(i / kCols / tile.rows * tile_cols + i % kCols / tile.cols);
      const double limit = slack * static_cast<double>(steps[t]) * (1 + 1e-5);
      if (std::fabs(static_cast<double>(in[e]) - static_cast<double>(out[e])) > limit)
        FAIL_CHECK(i);
    }
  }
}

TEST_CASE("quant: encoding decoded values again gives the same codes") {
  const Tensor x = sample();
  for (const char* text :
       {"int8:row", "int8:tensor", "int8:col", "int4:group16", "int3:block4", "int2:row",
        "int8:row:pow2", "e4m3:row", "e5m2:block4", "e2m1:group16", "int4:row:packed"}) {
    INFO("spec ", std::string(text));
    const QuantSpec s = parse_spec(text);
    const QTensor q = quantize(x, s);
    const QTensor again = quantize(dequantize(q), s);
    CHECK(bytes_of(again.payload()) == bytes_of(q.payload()));
    const auto a = q.scales().to_vector<float>(), b = again.scales().to_vector<float>();
    for (std::size_t i = 0; i < a.size(); ++i) CHECK(b[i] == doctest::Approx(a[i]).epsilon(1e-6));
  }
}

TEST_CASE("quant: powers of two are exact") {
  // Each row holds its largest value 2^k · Qp, so the step is 2^k and every value is on the grid.
  std::vector<float> x;
  for (int r = 0; r < 8; ++r)
    for (int c = 0; c < 16; ++c)
      x.push_back(std::ldexp(static_cast<float>(c == 0 ? 127 : c * 8 - 64), r - 4));
  const Tensor in = Tensor::from(x, {8, 16});
  for (const char* text : {"int8:row", "int8:row:recip", "int8:row:pow2", "int8:row:e8m0",
                           "int8:row:bf16", "int8:row:sr", "int8:row:floor1e-05:bf16math"}) {
    INFO("spec ", std::string(text));
    CHECK(dequantize(quantize(in, parse_spec(text), kKey)).to_vector<float>() == x);
  }
}

TEST_CASE("quant: a split is its parts, encoded apart") {
  const Tensor x = sample();
  for (const char* text : {"int8:tensor", "int8:row", "uint8:asym", "int4:group7", "e4m3:col"}) {
    INFO("spec ", std::string(text));
    QuantSpec whole = parse_spec(text);
    const QuantSpec part = whole;
    whole.col_splits = 3;
    const Tensor y = fake_quantize(x, whole);
    for (int p = 0; p < 3; ++p) {
      const Tensor chunk = x.slice(1, p * 14, (p + 1) * 14);
      CHECK(y.slice(1, p * 14, (p + 1) * 14).to_vector<float>() ==
            fake_quantize(chunk, part).to_vector<float>());
    }
  }
}

TEST_CASE("quant: packed codes hold the same numbers in half the bytes, odd columns too") {
  for (const std::int64_t cols : {1, 2, 7, 42}) {
    const Tensor x = sample(9, cols);
    for (const char* text :
         {"int4", "uint4:asym", "int2:row", "e2m1:row", "dyn4:group5", "lin4u"}) {
      INFO("spec ", std::string(text));
      QuantSpec wide = parse_spec(text), packed = wide;
      packed.packed = true;
      const QTensor a = quantize(x, wide), b = quantize(x, packed);
      CHECK(b.shape() == Shape{9, cols});
      CHECK(b.payload().shape() == Shape{9, cols + cols % 2});
      CHECK(b.payload().bytes() == 9 * ((cols + 1) / 2));
      CHECK(bytes_of(dequantize(a)) == bytes_of(dequantize(b)));
      CHECK(bytes_of(dequantize(b.t())) == bytes_of(dequantize(a.t())));
      const auto codes = bytes_of(a.payload());
      const unsigned both = bytes_of(b.payload())[0];
      CHECK(both % 16 == codes[0] % 16);
      if (cols > 1) CHECK(both / 16 == codes[1] % 16);
    }
  }
}

TEST_CASE("quant: stochastic rounding is unbiased over keys and stays on the grid") {
  const Tensor x = sample(4, 24);
  const auto in = x.to_vector<float>();
  constexpr int kKeys = 2000;
  for (const char* text :
       {"int8:row:sr", "int4:tensor:sr:recip", "uint8:row:asym:sr", "e4m3:row:sr", "e5m2:tensor:sr",
        "e2m1:group8:sr", "dyn8:row:sr", "dyn4:row:sr"}) {
    INFO("spec ", std::string(text));
    const QuantSpec s = parse_spec(text);
    std::vector<double> sum(in.size()), square(in.size());
    std::vector<int> above(in.size());
    for (std::uint32_t k = 0; k < kKeys; ++k) {
      const auto y = fake_quantize(x, s, RngKey{99, k}).to_vector<float>();
      for (std::size_t i = 0; i < y.size(); ++i) {
        const double e = static_cast<double>(y[i]) - static_cast<double>(in[i]);
        sum[i] += e;
        square[i] += e * e;
        above[i] += e > 0;
      }
    }
    double whole = 0, variance = 0;
    for (std::size_t i = 0; i < in.size(); ++i) {
      // The signed maps have no −1: a negative largest magnitude saturates.
      if (s.format.kind() == Format::Kind::CodeBook && in[i] < 0) continue;
      whole += sum[i];
      variance += square[i];
      // A normal bound needs some draws on either side; the sum over elements covers the others.
      const bool both = above[i] >= 20 && above[i] <= kKeys - 20;
      if (both && std::fabs(sum[i]) > 5 * std::sqrt(square[i])) FAIL_CHECK(in[i]);
    }
    // A rounded zero point clips one end of its tile.
    if (s.symmetric) CHECK(std::fabs(whole) <= 5 * std::sqrt(variance));
    const Tensor grid = fake_quantize(x, parse_spec("int8:row"));
    CHECK(bytes_of(fake_quantize(grid, parse_spec("int8:row:sr"), kKey)) == bytes_of(grid));
  }
  const QuantSpec s = parse_spec("int8:row:sr");
  CHECK_FALSE(same(quantize(x, s, RngKey{1, 1}), quantize(x, s, RngKey{1, 2})));
  const std::uint32_t step = 7;
  CHECK_FALSE(same(quantize(x, s, RngKey{1, 1, &step}), quantize(x, s, RngKey{1, 1})));
}

TEST_CASE("quant: dividing and multiplying by the reciprocal differ by one code at ties only") {
  const Tensor x = sample(64, 96);
  const auto a = quantize(x, parse_spec("int8:row")).payload().to_vector<std::int32_t>();
  const auto b = quantize(x, parse_spec("int8:row:recip")).payload().to_vector<std::int32_t>();
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(std::abs(a[i] - b[i]) <= 1);
}

}  // namespace
}  // namespace nibble
