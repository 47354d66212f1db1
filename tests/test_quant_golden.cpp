// Codes against the numpy transcription in golden/make_quant.py, to the last one.
#include <doctest/doctest.h>
#include <fmt/ranges.h>

#include <bit>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "quant/qtensor.h"

namespace nibble {
namespace {

// ---- the generators of make_quant.py -------------------------------------------------------

std::uint32_t hashed(std::uint64_t seed, std::uint64_t i) {
  auto x = static_cast<std::uint32_t>(i + seed * 0x9E3779B9u);
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

float bell(std::uint64_t seed, std::int64_t i) {
  int sum = -131070;
  for (const std::uint64_t word :
       {2 * static_cast<std::uint64_t>(i), 2 * static_cast<std::uint64_t>(i) + 1})
    sum +=
        static_cast<int>(hashed(seed, word) & 0xffffu) + static_cast<int>(hashed(seed, word) >> 16);
  return static_cast<float>(sum) / 32768.0f;
}

float element(const std::string& kind, std::uint64_t seed, std::int64_t r, std::int64_t c,
              std::int64_t cols, int qp) {
  const std::int64_t i = r * cols + c;
  if (kind == "bell") return bell(seed, i);
  if (kind == "student") {
    const double u =
        (static_cast<double>(hashed(seed, static_cast<std::uint64_t>(i))) + 0.5) / 4294967296.0;
    return static_cast<float>((2 * u - 1) / std::sqrt(2 * u * (1 - u)));
  }
  if (kind == "outlier") return bell(seed, i) * (c % 7 == 3 ? 64.0f : 1.0f);
  if (kind == "zeros") return r % 3 == 1 || c == 2 ? 0.0f : bell(seed, i);
  if (kind == "ties") {
    if ((r + c) % 4 == 0) return static_cast<float>(qp) / 8.0f;
    const auto h = static_cast<int>(hashed(seed, static_cast<std::uint64_t>(i)) %
                                    static_cast<std::uint32_t>(4 * qp + 1));
    return static_cast<float>(h - 2 * qp) / 16.0f;
  }
  if (kind == "offset") return bell(seed, i) / 4.0f + 3.0f;
  REQUIRE(kind == "positive");
  return std::fabs(bell(seed, i));
}

Tensor make_input(const std::string& kind, std::uint64_t seed, std::int64_t rows, std::int64_t cols,
                  int qp) {
  std::vector<float> x;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c) x.push_back(element(kind, seed, r, c, cols, qp));
  return Tensor::from(x, {rows, cols});
}

// ---- hashes --------------------------------------------------------------------------------

std::string fnv(const void* data, std::size_t n) {
  std::uint64_t h = 0xCBF29CE484222325ull;
  const auto* p = static_cast<const unsigned char*>(data);
  for (std::size_t i = 0; i < n; ++i) h = (h ^ p[i]) * 0x100000001B3ull;
  return fmt::format("{:016x}", h);
}
std::string code_hash(const QTensor& q) {
  return fnv(q.payload().raw(), static_cast<std::size_t>(q.payload().numel()));
}
std::string float_hash(std::vector<float> x) {
  for (float& v : x) v += 0.0f;  // −0 counts as 0
  return fnv(x.data(), x.size() * sizeof(float));
}

std::vector<std::vector<std::string>> golden(const std::string& kind) {
  std::ifstream in(NIBBLE_SOURCE_DIR "/tests/golden/quant.txt");
  REQUIRE(in.good());
  std::vector<std::vector<std::string>> lines;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::vector<std::string> fields;
    for (std::string word; words >> word;) fields.push_back(word);
    if (!fields.empty() && fields[0] == kind) lines.push_back(fields);
  }
  return lines;
}

std::string first_codes(const QTensor& q, std::size_t n) {
  auto codes = q.payload().to_vector<std::int32_t>();
  codes.resize(n);
  return fmt::format("{}", fmt::join(codes, " "));
}
std::string joined(const std::vector<std::string>& fields, std::size_t from) {
  return fmt::format(
      "{}", fmt::join(fields.begin() + static_cast<std::ptrdiff_t>(from), fields.end(), " "));
}

TEST_CASE("quant golden: every integer quantizer of the study, to the last code") {
  const auto lines = golden("quant");
  REQUIRE(lines.size() == 7 * 2 * 2 * 6 * 6);
  for (const auto& f : lines) {
    CAPTURE(joined(f, 0));
    const QuantSpec spec = parse_spec(f[1]);
    const Tensor x =
        make_input(f[4], std::stoull(f[5]), std::stoll(f[2]), std::stoll(f[3]), spec.format.qmax());
    const QTensor q = quantize(x, spec);
    CHECK(first_codes(q, 8) == joined(f, 10));
    CHECK(code_hash(q) == f[6]);
    CHECK(float_hash(q.scales().to_vector<float>()) == f[7]);
    const std::vector<float> none(static_cast<std::size_t>(q.scales().numel()));
    CHECK(float_hash(spec.symmetric ? none : q.zeros().to_vector<float>()) == f[8]);
    CHECK(float_hash(dequantize(q).to_vector<float>()) == f[9]);
    CHECK(float_hash(fake_quantize(x, spec).to_vector<float>()) == f[9]);
  }
}

TEST_CASE("quant golden: code books and their codes") {
  for (const auto& f : golden("book")) {
    CAPTURE(f[1]);
    const auto& values = Format::parse(f[1]).book().values;
    REQUIRE(values.size() == std::stoull(f[2]));
    for (std::size_t i = 0; i < values.size(); ++i)
      CHECK(fmt::format("{:08x}", std::bit_cast<std::uint32_t>(values[i])) == f[3 + i]);
  }
  const auto lines = golden("encode");
  REQUIRE(lines.size() == 20);
  for (const auto& f : lines) {
    CAPTURE(joined(f, 0));
    const std::int64_t rows = std::stoll(f[2]), cols = std::stoll(f[3]);
    auto x = make_input(f[4], std::stoull(f[5]), rows, cols, 1).to_vector<float>();
    if (f[1] == "dynu8" || f[1] == "lin4u")
      for (float& v : x) v *= v;
    const QTensor q = quantize(Tensor::from(x, {rows, cols}), parse_spec(f[1] + ":group256"));
    CHECK(first_codes(q, 8) == joined(f, 8));
    CHECK(code_hash(q) == f[6]);
    CHECK(float_hash(q.scales().to_vector<float>()) == f[7]);
  }
}

// An operand of a product: x (or xᵀ) itself, or its encoding. `text` states the spec for x.
Value operand(const Tensor& x, const std::string& text, bool transposed) {
  if (text == "-") return transposed ? x.t().clone() : x;
  const QuantSpec spec = parse_spec(text);
  return quantize(x, transposed ? spec.t() : spec, {}, transposed);
}

TEST_CASE("quant golden: the linear layer, forward and three backward forms") {
  const auto lines = golden("linear");
  REQUIRE(lines.size() == 18);
  for (const auto& f : lines) {
    CAPTURE(joined({f.begin(), f.begin() + 9}, 0));
    const std::string &mode = f[1], &wt = f[2], &at = f[3], &gt = f[4], none = "-";
    const std::int64_t m = std::stoll(f[5]), k = std::stoll(f[6]), n = std::stoll(f[7]);
    const auto index = std::stoull(f[8]);
    const Tensor x = make_input("student", 900 + index, m, k, 1);
    const Tensor w = make_input("bell", 950 + index, n, k, 1);
    const Tensor g = make_input("outlier", 990 + index, m, n, 1);
    const bool paper = mode == "paper", tim = mode == "tim", ste = mode == "ste";
    MatmulOptions simulated;
    simulated.mode = Mode::Simulated;
    const Tensor y = matmul_nt(operand(x, at, false), operand(w, wt, false), simulated);
    const Tensor dx =
        matmul_nt(operand(g, tim ? gt : none, false), operand(w, ste ? wt : none, true), simulated);
    const Tensor dw = matmul_nt(operand(g, paper ? gt : none, true),
                                operand(x, ste ? at : none, true), simulated);
    std::size_t at_number = 9;
    for (const Tensor& part : {y, dx, dw}) {
      double scale = 0;
      std::vector<double> expected;
      for (std::int64_t i = 0; i < part.numel(); ++i) expected.push_back(std::stod(f[at_number++]));
      for (const double v : expected) scale = std::max(scale, std::fabs(v));
      const auto got = part.to_vector<double>();
      for (std::size_t i = 0; i < got.size(); ++i)
        CHECK(std::fabs(got[i] - expected[i]) <= 1e-6 * scale);
    }
    CHECK(at_number == f.size());
  }
}

}  // namespace
}  // namespace nibble
