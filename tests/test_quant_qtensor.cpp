// QTensor and Encoded: construction, views, in-place writes, devices and every refusal.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "tests/quant_checks.h"

namespace nibble {
namespace {
using namespace quant_checks;

template <class F>
void refused(const std::string& part, F&& f) {
  CAPTURE(part);
  try {
    f();
    FAIL_CHECK("no error");
  } catch (const Error& e) {
    const std::string what = e.what();
    CAPTURE(what);
    CHECK(what.find(part) != std::string::npos);
  }
}

TEST_CASE("qtensor: the parts must fit the spec") {
  const QuantSpec row = parse_spec("int8:row"), asym = parse_spec("uint8:row:asym"),
                  two = parse_spec("e2m1:group16:twolevel");
  const Tensor codes = Tensor::zeros({4, 6}, DType::I8), none;
  const Tensor scales = Tensor::zeros({4, 1}), one = Tensor::zeros({1});
  const Tensor unsigned_codes = Tensor::zeros({4, 6}, DType::U8);
  const Tensor fp8_scales = Tensor::zeros({4, 1}, DType::E4M3);
  CHECK_NOTHROW(QTensor(codes, scales, none, none, row, {4, 6}));
  CHECK_NOTHROW(QTensor(unsigned_codes, scales, scales, none, asym, {4, 6}));
  CHECK_NOTHROW(QTensor(unsigned_codes, fp8_scales, none, one, two, {4, 6}));
  const auto make = [&](const Tensor& p, const Tensor& s, const Tensor& z, const Tensor& g,
                        const QuantSpec& spec,
                        const Shape& shape) { return [=] { QTensor(p, s, z, g, spec, shape); }; };
  refused("qtensor: got shape [6], expected a matrix", make(codes, scales, none, none, row, {6}));
  refused("the codes are missing", make(none, scales, none, none, row, {4, 6}));
  refused("codes: got i8[4, 6] on cpu, expected i8[4, 7]",
          make(codes, scales, none, none, row, {4, 7}));
  refused("codes: got u8[4, 6] on cpu, expected i8[4, 6]",
          make(unsigned_codes, scales, none, none, row, {4, 6}));
  refused("the scales are missing", make(codes, none, none, none, row, {4, 6}));
  refused("scales: got f32[1] on cpu, expected f32[4, 1]",
          make(codes, one, none, none, row, {4, 6}));
  refused("scales: got f32[4, 1] on cpu, expected e4m3[4, 1]",
          make(unsigned_codes, scales, none, one, two, {4, 6}));
  refused("zero points given, but the spec is symmetric",
          make(codes, scales, scales, none, row, {4, 6}));
  refused("the zero points are missing", make(unsigned_codes, scales, none, none, asym, {4, 6}));
  refused("the global scale are missing",
          make(unsigned_codes, fp8_scales, none, none, two, {4, 6}));
  refused("a global scale given", make(codes, scales, none, one, row, {4, 6}));
  QuantSpec broken = row;
  broken.packed = true;
  refused("packed codes have at most 4 bits", make(codes, scales, none, none, broken, {4, 6}));
  refused("got -1 rows", [&] { QTensor::empty(row, -1, 3); });
}

TEST_CASE("qtensor: empty has zero scales and the right bytes") {
  const QTensor q = QTensor::empty(parse_spec("int4:group16:packed:e8m0"), 5, 33);
  CHECK(q.payload().shape() == Shape{5, 34});
  CHECK(q.scales().shape() == Shape{5, 3});
  CHECK(q.bytes() == 5 * 17 + 15);
  for (const auto b : bytes_of(q.scales())) CHECK(b == 0);
  const QTensor z = QTensor::empty(parse_spec("uint8:tensor:asym"), 3, 4);
  CHECK(z.bytes() == 12 + 4 + 4);
}

TEST_CASE("qtensor: writing in place, views and versions") {
  const Tensor x = sample();
  for (const char* text :
       {"int8:row:sr", "uint4:group5:asym:packed", "dyn8:group16", "e4m3:e8m0"}) {
    INFO("spec ", std::string(text));
    const QuantSpec s = parse_spec(text);
    QTensor q = QTensor::empty(s, kRows, kCols);
    const QTensor alias = q;
    const auto version = q.payload().version();
    quantize_into(q, x, kKey);
    CHECK(same(q, quantize(x, s, kKey)));
    CHECK(same(alias, q));
    CHECK(q.payload().version() > version);
    CHECK(q.scales().version() > 0);
  }
  QTensor q = quantize(x, parse_spec("int8:row"));
  CHECK(q.t().payload().same_storage(q.payload()));
  QTensor view = q.t();
  refused("quantize_into: the codes are a transposed view",
          [&] { quantize_into(view, x.t().clone()); });
  refused("quantize_into: got f32[3, 4] on cpu for a quantized [12, 42]", [&] {
    quantize_into(q, Tensor::zeros({3, 4}));
  });
  refused("quantize: got i32[4] on cpu, expected f64, f32 or bf16",
          [&] { quantize(Tensor::arange(4, DType::I32), parse_spec("int8")); });
  refused("fake_quantize: got u8", [&] { fake_quantize(Tensor::zeros({2, 2}, DType::U8), {}); });
  refused("dequantize: got dtype i8", [&] { dequantize(q, DType::I8); });
  refused("10 columns cannot be split in 3", [&] {
    quantize(Tensor::zeros({2, 10}), parse_spec("int8:split3"));
  });
}

TEST_CASE("qtensor: leading dimensions are rows, views are read in logical order") {
  const Tensor x = sample(6, 20);
  const QuantSpec s = parse_spec("int8:row");
  CHECK(same(quantize(x.view({2, 3, 20}), s), quantize(x, s)));
  CHECK(fake_quantize(x.view({2, 3, 20}), s).shape() == Shape{2, 3, 20});
  CHECK(same(quantize(x.t(), s), quantize(x.t().clone(), s)));
  CHECK(quantize(Tensor::full({5}, 2.0), s).shape() == Shape{1, 5});
  CHECK(fake_quantize(Tensor::full({}, 2.0), parse_spec("int8")).shape() == Shape{});
  for (const Shape& empty : {Shape{0, 5}, Shape{5, 0}, Shape{0}}) {
    CAPTURE(to_string(empty));
    const Tensor none = Tensor::empty(empty);
    for (const char* text : {"int8", "uint8:row:asym", "int4:group4:packed", "int8:col:e8m0"}) {
      const QTensor q = quantize(none, parse_spec(text));
      CHECK(dequantize(q).numel() == 0);
      CHECK(dequantize(q.t()).numel() == 0);
      CHECK(fake_quantize(none, parse_spec(text)).shape() == empty);
    }
  }
}

TEST_CASE("qtensor: meta tensors carry shapes and bytes only") {
  const Tensor x = Tensor::empty({64, 33}, DType::BF16, kMeta);
  for (const QuantSpec& s : specs()) {
    if (s.col_splits > 1 || s.row_splits > 1) continue;
    CAPTURE(to_string(s));
    const QTensor q = quantize(x, s, kKey), real = quantize(Tensor::zeros({64, 33}), s, kKey);
    CHECK(q.bytes() == real.bytes());
    CHECK(q.t_contiguous().shape() == Shape{33, 64});
    CHECK(dequantize(q).device() == kMeta);
    CHECK(fake_quantize(x, s, kKey).shape() == x.shape());
  }
}

TEST_CASE("encoded: finds the encoding of the matrix or of its transpose") {
  const Tensor x = sample(8, 8);
  const QuantSpec row = parse_spec("int8:row"), col = parse_spec("int8:col");
  Encoded e(x);
  CHECK(e.dense().same_storage(x));
  CHECK(e.find(row) == nullptr);
  e.add(quantize(x, row));
  e.add(quantize(x, row, {}, true), true);
  REQUIRE(e.find(row) != nullptr);
  REQUIRE(e.find(row, true) != nullptr);
  CHECK(same(*e.find(row), quantize(x, row)));
  CHECK(same(*e.find(row, true), quantize(x.t().clone(), row)));
  CHECK(e.find(col) == nullptr);
  CHECK(e.find(col, true) == nullptr);
  CHECK(e.encodings().size() == 2);
}

}  // namespace
}  // namespace nibble
