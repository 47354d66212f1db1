// Scales: zero tiles, what is not finite, scale types, calibrations, and the defects of the study's
// published code.
#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "quant/codec.h"
#include "tests/quant_checks.h"

namespace nibble {
namespace {
using namespace quant_checks;

TEST_CASE("quant: a zero tile without a floor has scale 0 and decodes to zeros") {
  const Tensor x = Tensor::zeros({4, 10});
  for (const QuantSpec& s : specs()) {
    if (s.floor.value != 0 && !s.floor.relative) continue;
    if (s.calibration.kind == Calibration::Kind::Constant || s.col_splits > 1 || s.row_splits > 1)
      continue;
    CAPTURE(to_string(s));
    const QTensor q = quantize(x, s, kKey);
    const float least = s.scale == ScaleType::E8M0 ? std::ldexp(1.0f, -127) : 0.0f;
    for (const float step : q.scales_f32().to_vector<float>()) CHECK(step == least);
    for (const float v : dequantize(q).to_vector<float>()) CHECK(v == 0);
    if (!s.format.is_integer()) continue;
    for (const auto code : bytes_of(q.payload())) CHECK(code == 0);
  }
  // A constant that is not zero survives: one step, a zero point of ±1.
  for (const double c : {3.25, -1e-30}) {
    const Tensor constant = Tensor::full({3, 5}, c);
    CHECK(bytes_of(fake_quantize(constant, parse_spec("uint8:row:asym"))) == bytes_of(constant));
    CHECK(bytes_of(fake_quantize(constant, parse_spec("int4:row:asym"))) == bytes_of(constant));
  }
  // Ranges whose step underflows are zero tiles too; their neighbours' codes stay finite.
  const Tensor tiny = Tensor::full({2, 4}, 1e-44);
  for (const char* text : {"int8:row", "int8:row:recip", "int8:col:recip", "e2m1:row:twolevel"})
    for (const float v : fake_quantize(tiny, parse_spec(text)).to_vector<float>()) CHECK(v == 0);
  const auto small = fake_quantize(Tensor::full({1, 4}, 1e-37), parse_spec("int8:row:recip"));
  for (const float v : small.to_vector<float>()) CHECK(v == doctest::Approx(1e-37).epsilon(0.02));
}

TEST_CASE("quant: what is not finite shows in the scales, whatever the spec") {
  for (const float bad : {HUGE_VALF, -HUGE_VALF, std::nanf(""), -std::nanf("")})
    for (const QuantSpec& s : specs()) {
      CAPTURE(to_string(s));
      auto values = sample().to_vector<float>();
      values[5 * kCols + 8] = bad;
      const Tensor x = Tensor::from(values, {kRows, kCols});
      const QTensor q = quantize(x, s, kKey);
      const Tile tile = s.resolve(kRows, kCols);
      const auto steps = q.scales_f32().to_vector<float>();
      const std::int64_t at = 5 / tile.rows * q.scales().size(1) + 8 / tile.cols;
      CHECK_FALSE(std::isfinite(steps[static_cast<std::size_t>(at)]));
      CHECK_FALSE(std::isfinite(dequantize(q).to_vector<float>()[5 * kCols + 8]));
      fake_quantize(x, s, kKey);
    }
}

TEST_CASE("quant: scale types") {
  const Tensor x = sample();
  const auto exact = quantize(x, parse_spec("int8:row")).scales().to_vector<float>();
  const auto steps = [&](const char* text) {
    return quantize(x, parse_spec(text)).scales_f32().to_vector<float>();
  };
  const auto bf16 = steps("int8:row:bf16"), pow2 = steps("int8:row:pow2"),
             e8m0 = steps("int8:row:e8m0"), two = steps("int8:row:twolevel");
  for (std::size_t i = 0; i < exact.size(); ++i) {
    CHECK(bf16[i] == codec::round_bf16(exact[i]));
    CHECK(two[i] == doctest::Approx(exact[i]).epsilon(1.0 / 16));
    if (exact[i] == 0) continue;
    CHECK(pow2[i] == std::exp2(std::ceil(std::log2(exact[i]))));
    CHECK(e8m0[i] == pow2[i]);
  }
  const QTensor q = quantize(x, parse_spec("e2m1:group16:twolevel"));
  CHECK(q.scales().dtype() == DType::E4M3);
  float most = 0;
  for (const float v : x.to_vector<float>()) most = std::max(most, std::fabs(v));
  CHECK(q.global_scale().to_vector<float>()[0] == doctest::Approx(most / (448 * 6)));
  CHECK(quantize(x, parse_spec("e4m3:block32:e8m0")).scales().dtype() == DType::U8);
  CHECK(quantize(x, parse_spec("int8:row:bf16")).bytes() == kRows * kCols + 2 * kRows);
}

TEST_CASE("quant: calibrations") {
  const Tensor x = sample();
  const auto in = x.to_vector<float>();
  double sum = 0;
  float most = 0;
  for (const float v : in) {
    sum += std::fabs(static_cast<double>(v));
    most = std::max(most, std::fabs(v));
  }
  const auto step = [&](const char* text) {
    return quantize(x, parse_spec(text)).scales().to_vector<float>()[0];
  };
  CHECK(step("int4:absmean2.5") ==
        doctest::Approx(2.5 * sum / static_cast<double>(in.size()) / 7).epsilon(1e-6));
  CHECK(step("int4:const3.5") == 0.5f);
  CHECK(step("int4:absmax0.5") == 0.5f * most / 7);
  // The search never loses to absmax, and finds what a plain search over candidates finds.
  const auto error = [&](const QuantSpec& s) {
    const auto y = fake_quantize(x, s).to_vector<float>();
    double e = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      const double d = static_cast<double>(in[i]) - static_cast<double>(y[i]);
      e += d * d;
    }
    return e;
  };
  double best = HUGE_VAL;
  for (int c = 1; c <= 20; ++c) {
    QuantSpec s = parse_spec("int3");
    s.calibration = {Calibration::Kind::Constant, static_cast<float>(c) / 20.0f * most};
    best = std::min(best, error(s));
  }
  CHECK(error(parse_spec("int3:mse20")) == doctest::Approx(best).epsilon(1e-9));
  CHECK(best < error(parse_spec("int3")));
  CHECK(error(parse_spec("int3:mse1")) == error(parse_spec("int3")));
}

// ---- defects of the published code (section 7.2 of the study's notes) ------------------------

TEST_CASE("quant defect 2: the Q, K and V thirds have scales of their own") {
  std::vector<float> x(2 * 6, 1.0f);
  x[0] = 100;
  const QTensor q = quantize(Tensor::from(x, {2, 6}), parse_spec("int8:tensor:split3"));
  CHECK(q.scales().to_vector<float>() == std::vector<float>{100.0f / 127, 1.0f / 127, 1.0f / 127});
}

TEST_CASE("quant defect 3: per column works on matrices and spans all rows") {
  const Tensor x = Tensor::from(std::vector<float>{1, -8, 2, 4, -3, 16}, {3, 2});
  CHECK(quantize(x, parse_spec("int8:col")).scales().to_vector<float>() ==
        std::vector<float>{3.0f / 127, 16.0f / 127});
}

TEST_CASE("quant defect 4: groups use the largest magnitude, and tails are groups too") {
  const Tensor x = Tensor::from(std::vector<float>{-8, 1, 2, -5, 3}, {1, 5});
  const QTensor q = quantize(x, parse_spec("int8:group2"));
  CHECK(q.scales().to_vector<float>() == std::vector<float>{8.0f / 127, 5.0f / 127, 3.0f / 127});
  const QTensor z = quantize(x, parse_spec("uint8:group2:asym"));
  CHECK(z.zeros().shape() == Shape{1, 3});
}

TEST_CASE("quant defect 6: unsigned zero points cover the whole range") {
  const Tensor x = Tensor::from(std::vector<float>{-1, 0, 1, 2, 3}, {1, 5});
  const auto y = fake_quantize(x, parse_spec("uint8:asym")).to_vector<float>();
  for (int i = 0; i < 5; ++i)
    CHECK(std::fabs(y[static_cast<std::size_t>(i)] - static_cast<float>(i - 1)) < 4.0f / 255);
}

TEST_CASE("quant defect 9: only the emulated bf16 arithmetic favours even codes") {
  const Tensor x = Tensor::uniform({64, 512}, -1, 1, RngKey{3, 3}).to(DType::BF16);
  const auto odd_share = [&](const char* text) {
    int odd = 0, all = 0;
    for (const auto code : quantize(x, parse_spec(text)).payload().to_vector<std::int32_t>()) {
      if (std::abs(code) < 64 || std::abs(code) > 126) continue;
      ++all;
      odd += code & 1;
    }
    return static_cast<double>(odd) / all;
  };
  CHECK(odd_share("int8:row:floor1e-09:bf16math") < 0.3);
  CHECK(odd_share("int8:row:floor1e-09") > 0.45);
}

TEST_CASE("quant defect 11: a relative floor does not depend on the scale of the tensor") {
  const Tensor x = sample();
  auto small = x.to_vector<float>();
  for (float& v : small) v *= 0x1p-40f;
  const Tensor y = Tensor::from(small, {kRows, kCols});
  const QuantSpec relative = parse_spec("int8:row:relfloor0.001");
  CHECK(bytes_of(quantize(x, relative).payload()) == bytes_of(quantize(y, relative).payload()));
  const QuantSpec absolute = parse_spec("int8:row:floor1e-08");
  CHECK(bytes_of(quantize(x, absolute).payload()) != bytes_of(quantize(y, absolute).payload()));
  CHECK(quantize(x, relative).scales().to_vector<float>()[4] > 0);  // the zero row
}

}  // namespace
}  // namespace nibble
