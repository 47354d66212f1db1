// fp8_gemm on the CPU, the definition that the GPU's routes are held against. Tier: exact where the
// values make every sum exact, else bound by the order of accumulation (f32 sums of k products).
#include <doctest/doctest.h>

#include <cmath>

#include "quant/fp8_route.h"
#include "quant/qtensor.h"
#include "tensor/ops.h"

using namespace nibble;

namespace {

// Small multiples of a power of two: fp8 holds them exactly under scales that are powers of two.
Tensor whole(std::int64_t rows, std::int64_t cols, std::uint32_t site) {
  const Tensor draws = Tensor::uniform({rows, cols}, -3.49, 3.49, RngKey{3, site});
  return draws.to(DType::I32).to(DType::F32);
}
Tensor normal(std::int64_t rows, std::int64_t cols, std::uint32_t site) {
  return Tensor::normal({rows, cols}, 0, 1, RngKey{3, site});
}
QTensor encode(const Tensor& x, const char* spec) { return quantize(x, parse_spec(spec)); }
std::vector<double> product(const Tensor& a, const Tensor& b) {
  return ops::matmul(a.to(DType::F64), b.to(DType::F64).t()).to_vector<double>();
}

const std::pair<const char*, const char*> kPairs[] = {
    {"e4m3:tensor", "e4m3:tensor"},  {"e4m3:row", "e4m3:row"},     {"e5m2:row", "e4m3:tensor"},
    {"e4m3:tensor", "e5m2:row"},     {"e4m3:tile3x0", "e5m2:row"}, {"e5m2:tensor", "e5m2:tensor"},
    {"e4m3:group32", "e4m3:block32"}};

}  // namespace

TEST_CASE("fp8_gemm: the value of each code times the scale of its row, exactly") {
  const Tensor a = whole(18, 96, 1), b = whole(32, 96, 2);
  for (const auto& [left, right] : kPairs) {
    CAPTURE(left);
    CAPTURE(right);
    const std::string pow2 = ":pow2";
    const QTensor qa = encode(a, (left + pow2).c_str()), qb = encode(b, (right + pow2).c_str());
    CHECK(dequantize(qa).to_vector() == a.to_vector());
    const std::vector<double> truth = product(a, b);
    CHECK(matmul_nt(qa, qb).to_vector<double>() == truth);
    const Tensor narrow = matmul_nt(qa, qb, {.out = DType::BF16, .bias = {}});
    CHECK(narrow.to_vector() == matmul_nt(qa, qb).to(DType::BF16).to_vector());
  }
}

TEST_CASE("fp8_gemm: scales to the format's own maximum, within the bound of f32 sums") {
  constexpr std::int64_t k = 192;
  const Tensor a = normal(33, k, 4), b = normal(48, k, 5);
  for (const auto& [left, right] : kPairs) {
    CAPTURE(left);
    CAPTURE(right);
    const QTensor qa = encode(a, left), qb = encode(b, right);
    const Tensor da = dequantize(qa), db = dequantize(qb);
    const auto truth = product(da, db), size = product(ops::abs(da), ops::abs(db));
    const auto y = matmul_nt(qa, qb).to_vector<double>();
    for (std::size_t i = 0; i < truth.size(); ++i)
      CHECK(std::abs(y[i] - truth[i]) <= (k + 4) * 0x1p-24 * size[i]);
  }
  // The largest magnitude of a row becomes the format's largest number.
  const QTensor q = encode(a, "e5m2:row");
  float largest = 0;
  for (std::int64_t j = 0; j < k; ++j) largest = std::max(largest, std::abs(a.data<float>()[j]));
  CHECK(q.scales_f32().data<float>()[0] == largest / 57344);
}

TEST_CASE("fp8_gemm: bias in f32 or bf16, added before the only rounding") {
  const Tensor a = normal(17, 64, 6), b = normal(16, 64, 7), bias = normal(1, 16, 8).view({16});
  const QTensor qa = encode(a, "e4m3:row"), qb = encode(b, "e4m3:row");
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const Tensor given = bias.to(dtype);
    Tensor expected = matmul_nt(qa, qb);
    ops::add_bias(expected, given.to(DType::F32));
    for (const DType out : {DType::F32, DType::BF16})
      CHECK(matmul_nt(qa, qb, {.out = out, .bias = given}).to_vector() ==
            expected.to(out).to_vector());
  }
}

TEST_CASE("fp8_gemm: fast accumulation changes nothing where sums are f32") {
  const Tensor a = normal(9, 160, 9), b = normal(16, 160, 10);
  const QTensor qa = encode(a, "e4m3:row"), qb = encode(b, "e5m2:row");
  const MatmulOptions fast{.bias = {}, .accumulation = Accumulation::Fast};
  CHECK(matmul_nt(qa, qb, fast).to_vector() == matmul_nt(qa, qb).to_vector());
  Tensor c = Tensor::full({9, 16}, 1.0), d = c.clone();
  matmul_nt_into(c, qa, qb, Mode::Real, true, Accumulation::Fast);
  matmul_nt_into(d, qa, qb, Mode::Real, true);
  CHECK(c.to_vector() == d.to_vector());
}

TEST_CASE("fp8_gemm: the route is a function of the layout") {
  using enum Fp8Route;
  const auto route = [](std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t block,
                        std::int64_t a_rows, std::int64_t b_rows) {
    return fp8_route({m, n, k, block, DType::E4M3, DType::E5M2, a_rows, b_rows});
  };
  CHECK(route(64, 32, 96, 96, 64, 32) == TensorScales);
  CHECK(route(64, 32, 96, 96, 1, 32) == RowScales);
  CHECK(route(64, 32, 96, 96, 64, 1) == RowScales);
  CHECK(route(1, 32, 96, 96, 1, 32) == TensorScales);
  CHECK(route(64, 32, 96, 96, 2, 1) == Rescaled);
  CHECK(route(64, 32, 96, 32, 1, 32) == Rescaled);
  CHECK(route(64, 32, 96, 40, 1, 32) == Decoded);
  CHECK(route(64, 256, 256, 128, 1, 1) == BlockScales);
  CHECK(route(64, 256, 256, 128, 1, 128) == BlockScales);
  CHECK(route(256, 256, 256, 128, 128, 1) == BlockScales);
  CHECK(route(256, 256, 256, 128, 128, 128) == Rescaled);
  CHECK(route(256, 256, 256, 64, 1, 128) == Rescaled);
  CHECK(route(64, 256, 320, 128, 1, 1) == Rescaled);
  CHECK(route(63, 256, 256, 128, 1, 1) == Rescaled);
  CHECK(route(64, 256, 256, 128, 2, 1) == Rescaled);
  CHECK(route(64, 24, 96, 96, 1, 1) == Decoded);
  CHECK(route(64, 32, 8, 8, 1, 1) == Decoded);
  CHECK(route(64, 32, 0, 1, 1, 1) == Decoded);
  CHECK(fp8_route({64, 32, 96, 96, DType::E5M2, DType::E5M2, 1, 1}) == Decoded);
  CHECK(fp8_fault({64, 32, 96, 96, DType::E5M2, DType::E4M3, 1, 1}).empty());
}
