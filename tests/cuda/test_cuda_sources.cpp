// Encoders of what producers make (quant/source_kernels.h) against the kernels that they replace,
// on the GPU and on the CPU. Tier: exact.
#include "quant/pair_twin.h"
#include "quant/source_kernels.h"
#include "tests/cuda/quant_inputs.h"

using namespace nibble;
using namespace nibble::testing;
using quant_checks::kKey;

namespace {

using Kind = PairSource::Kind;

Tensor other(const Tensor& x, const Shape& shape, std::uint32_t site) {
  return Tensor::normal(shape, 0, 1, RngKey{3, site}, DType::F32, kCpu)
      .to(x.dtype())
      .to(x.device());
}

// With room for what the source writes. `shift`: the norm has a beta.
PairSource source_of(Kind kind, const Tensor& x, bool shift) {
  PairSource s;
  s.kind = kind;
  s.x = x;
  if (kind == Kind::Plain || kind == Kind::Gelu) return s;
  const std::int64_t rows = x.size(0), cols = x.size(1);
  s.gamma = other(x, {cols}, 1);
  if (shift) s.beta = other(x, {cols}, 2);
  s.epsilon = 1e-5;
  s.mean = Tensor::zeros({rows}, DType::F32, x.device());
  s.rstd = s.mean.clone();
  if (kind == Kind::AddLayerNorm) {
    s.residual = other(x, {rows, cols}, 3);
    s.sum = Tensor::zeros({rows, cols}, x.dtype(), x.device());
  }
  return s;
}

struct Codes {
  Tensor codes, scales;
};
Codes fresh_codes(const QuantSpec& spec, std::int64_t rows, std::int64_t cols, Device device) {
  return {Tensor::zeros({rows, cols}, spec.payload(), device),
          Tensor::zeros(spec.scale_shape(rows, cols), DType::F32, device)};
}

Codes rows_of(const PairSource& s, const QuantSpec& spec) {
  Codes c = fresh_codes(spec, s.x.size(0), s.x.size(1), s.x.device());
  NIBBLE_DISPATCH(s.x.device(), quant_norm_rows(c.codes, c.scales, s, spec));
  return c;
}
Codes rows_of_matrix(const Tensor& y, const QuantSpec& spec) {
  Codes c = fresh_codes(spec, y.size(0), y.size(1), y.device());
  NIBBLE_DISPATCH(y.device(), quant_row_runs(c.codes, c.scales, y, spec, kKey));
  return c;
}
// Of the transpose.
Codes columns_of(const PairSource& s, const QuantSpec& spec) {
  Codes c = fresh_codes(spec, s.x.size(1), s.x.size(0), s.x.device());
  NIBBLE_DISPATCH(s.x.device(), quant_source_columns(c.codes, c.scales, s, spec, kKey));
  return c;
}
Codes columns_of_matrix(const Tensor& y, const QuantSpec& spec) {
  Codes c = fresh_codes(spec, y.size(1), y.size(0), y.device());
  NIBBLE_DISPATCH(y.device(), quant_column_runs(c.codes, c.scales, y, spec, kKey));
  return c;
}
void check_same(const Codes& expected, const Codes& got, const char* what) {
  check_bits(expected.codes.to(kCpu), got.codes, what);
  check_bits(expected.scales.to(kCpu), got.scales, what);
}

}  // namespace

TEST_CASE("cuda sources: which specs have columns of what is made") {
  const auto serves = [](Kind kind, const char* spec, std::int64_t rows, std::int64_t cols) {
    PairSource s;
    s.kind = kind;
    s.x = Tensor::empty({rows, cols}, DType::BF16, kMeta);
    return has_source_columns(s, parse_spec(spec));
  };
  CHECK(serves(Kind::Gelu, "int8:group256:recip", 272, 6400));
  CHECK(serves(Kind::LayerNorm, "int8:group128:recip", 272, 72));
  CHECK(serves(Kind::LayerNorm, "uint8:group128:recip:floor0.5", 272, 72));
  CHECK(serves(Kind::Plain, "int8:group256:sr", 272, 768));
  CHECK_FALSE(serves(Kind::LayerNorm, "int8:group256:recip:sr", 272, 768));
  CHECK_FALSE(serves(Kind::Gelu, "int8:group256", 272, 768));
  CHECK_FALSE(serves(Kind::AddLayerNorm, "int8:group256:recip", 272, 768));
  CHECK_FALSE(serves(Kind::GeluBackward, "int8:group256:recip", 272, 768));
  CHECK_FALSE(serves(Kind::Gelu, "int8:group256:recip", 264, 768));
  CHECK_FALSE(serves(Kind::Gelu, "int8:group64:recip", 272, 768));
}

TEST_CASE("cuda sources: which specs have rows of norms") {
  const auto serves = [](Kind kind, const char* spec, std::int64_t cols) {
    PairSource s;
    s.kind = kind;
    s.x = Tensor::empty({37, cols}, DType::BF16, kMeta);
    return has_norm_rows(s, parse_spec(spec));
  };
  CHECK(serves(Kind::LayerNorm, "int8:row:recip", 8));
  CHECK(serves(Kind::AddLayerNorm, "int8:row:recip", 4096));
  CHECK(serves(Kind::AddLayerNorm, "int8:group128:recip", 768));
  CHECK(serves(Kind::LayerNorm, "uint8:row:recip:absmax0.9", 768));
  CHECK_FALSE(serves(Kind::LayerNorm, "int8:group128:recip", 200));
  CHECK_FALSE(serves(Kind::LayerNorm, "int8:row:recip", 4104));
  CHECK_FALSE(serves(Kind::LayerNorm, "int8:row:recip", 772));
  CHECK_FALSE(serves(Kind::LayerNorm, "int8:row", 768));
  CHECK_FALSE(serves(Kind::LayerNorm, "int8:row:recip:sr", 768));
  CHECK_FALSE(serves(Kind::LayerNorm, "int8:group64:recip", 768));
  CHECK_FALSE(serves(Kind::Plain, "int8:row:recip", 768));
  CHECK_FALSE(serves(Kind::Gelu, "int8:row:recip", 768));
}

GPU_TEST("cuda sources: rows of layer norms") {
  for (const DType dtype : {DType::BF16, DType::F32})
    for (const Numbers numbers_of : kNumbers)
      for (const Kind kind : {Kind::LayerNorm, Kind::AddLayerNorm})
        for (const std::int64_t cols : {8, 72, 128, 264, 768, 1024, 1280, 1600, 3072, 4096})
          for (const char* spec_text : {"int8:row:recip", "int8:group128:recip",
                                        "uint8:row:recip:floor0.5", "int4:row:recip:absmax0.9"}) {
            const QuantSpec spec = parse_spec(spec_text);
            const Tensor x = numbers(numbers_of, 37, cols, dtype);
            PairSource fused = source_of(kind, x.to(kGpu), cols != 72);
            if (!has_norm_rows(fused, spec) || !in_sample()) continue;
            CAPTURE(describe(x));
            CAPTURE(static_cast<int>(kind));
            CAPTURE(spec_text);
            PairSource apart = source_of(kind, fused.x, cols != 72);
            const Codes expected = rows_of_matrix(pair_matrix(apart, {}), spec);
            check_same(expected, rows_of(fused, spec), "apart");
            check_numbers(apart.mean.to(kCpu), fused.mean, "mean");
            check_numbers(apart.rstd.to(kCpu), fused.rstd, "rstd");
            if (apart.sum.defined()) check_numbers(apart.sum.to(kCpu), fused.sum, "sum");
          }
  // Many rows, and outputs that touch nothing else.
  const QuantSpec spec = parse_spec("int8:row:recip");
  PairSource s =
      source_of(Kind::AddLayerNorm, numbers(Numbers::Bell, 4999, 768, DType::BF16).to(kGpu), true);
  const Codes expected = rows_of_matrix(pair_matrix(s, {}), spec);
  std::vector<Framed> frames;
  Codes c = fresh_codes(spec, 4999, 768, kGpu);
  for (Tensor* t : {&c.codes, &c.scales, &s.mean, &s.rstd, &s.sum}) {
    frames.push_back(framed(t->shape(), t->dtype(), kGpu, 0));
    *t = frames.back().inner;
  }
  cuda::quant_norm_rows(c.codes, c.scales, s, spec);
  check_same(expected, c, "many rows");
  for (const Framed& f : frames) {
    const std::vector<float> all = f.buffer.to(kCpu).to_vector();
    for (std::size_t i = 0; i < 64; ++i) {
      CHECK(all[i] == 77);
      CHECK(all[all.size() - 1 - i] == 77);
    }
  }
}

GPU_TEST("cuda sources: columns of what is made, from x and statistics") {
  for (const DType dtype : {DType::BF16, DType::F32})
    for (const Numbers numbers_of : kNumbers)
      for (const Kind kind : {Kind::Plain, Kind::LayerNorm, Kind::Gelu})
        for (const auto& [rows, cols] :
             {std::pair{256, 8}, {128, 72}, {272, 768}, {640, 136}, {2048, 1600}})
          for (const char* spec_text :
               {"int8:group256:recip", "int8:group128:recip", "uint8:group256:recip:floor0.5"}) {
            if (!in_sample()) continue;
            const QuantSpec spec = parse_spec(spec_text);
            const Tensor x = numbers(numbers_of, rows, cols, dtype);
            CAPTURE(describe(x));
            CAPTURE(static_cast<int>(kind));
            CAPTURE(spec_text);
            PairSource here = source_of(kind, x.to(kGpu), cols != 72);
            REQUIRE(has_source_columns(here, spec));
            const Tensor y = pair_matrix(here, {});
            const Codes got = columns_of(here, spec);
            check_same(columns_of_matrix(y, spec), got, "apart");
            PairSource there = source_of(kind, x, cols != 72);
            if (kind == Kind::LayerNorm)
              there.mean = here.mean.to(kCpu), there.rstd = here.rstd.to(kCpu);
            check_same(columns_of(there, spec), got, "CPU");
          }
}
