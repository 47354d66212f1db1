// quant_pair against the kernels it replaces, on the GPU and on the CPU. Tier: exact.
#include "quant/pair_twin.h"
#include "tensor/recorded_work.h"
#include "tests/cuda/quant_inputs.h"

using namespace nibble;
using namespace nibble::testing;
using quant_checks::kKey;

namespace {

using Kind = PairSource::Kind;
constexpr Kind kKinds[] = {Kind::Plain, Kind::Gelu, Kind::GeluBackward};

// Everything that a call reads and writes.
struct Call {
  PairSource source;
  QuantSpec by_row, by_column;
  Tensor row_codes, row_scales, column_codes, column_scales, value, column_sums;

  std::vector<Tensor> outputs() const {
    return {row_codes, row_scales, column_codes, column_scales, value, column_sums};
  }
};
struct Wanted {
  bool columns = true, value = true, sums = true;
};

PairSource source_of(Kind kind, const Tensor& x) {
  PairSource s;
  s.kind = kind;
  s.x = x;
  if (kind == Kind::GeluBackward)
    s.dy = Tensor::normal(x.shape(), 0, 1, RngKey{3, 4}, DType::F32, kCpu)
               .to(x.dtype())
               .to(x.device());
  return s;
}

Call call_of(Kind kind, const Tensor& x, const QuantSpec& by_row, const QuantSpec& by_column,
             const Wanted& wanted) {
  const std::int64_t rows = x.size(0), cols = x.size(1);
  Call c;
  c.source = source_of(kind, x);
  c.by_row = by_row;
  c.by_column = by_column;
  const auto zeros = [&](const Shape& shape, DType dtype) {
    return Tensor::zeros(shape, dtype, x.device());
  };
  c.row_codes = zeros({rows, cols}, DType::I8);
  c.row_scales = zeros(by_row.scale_shape(rows, cols), DType::F32);
  if (wanted.columns) {
    c.column_codes = zeros({cols, rows}, DType::I8);
    c.column_scales = zeros(by_column.scale_shape(cols, rows), DType::F32);
  }
  if (wanted.value && kind != Kind::Plain) c.value = zeros({rows, cols}, x.dtype());
  if (wanted.sums) c.column_sums = zeros({cols}, DType::F32);
  return c;
}
void run(Call& c) {
  NIBBLE_DISPATCH(c.source.x.device(),
                  quant_pair(c.row_codes, c.row_scales, c.column_codes, c.column_scales, c.value,
                             c.column_sums, c.source, c.by_row, c.by_column, kKey));
}
void run_twin(Call& c) {
  pair_twin(c.row_codes, c.row_scales, c.column_codes, c.column_scales, c.value, c.column_sums,
            c.source, c.by_row, c.by_column, kKey);
}

constexpr const char* kOutputs[] = {"row codes",     "row scales", "column codes",
                                    "column scales", "value",      "column sums"};
void check_same(const Call& expected, const Call& got) {
  const std::vector<Tensor> e = expected.outputs(), g = got.outputs();
  for (std::size_t i = 0; i < e.size(); ++i) {
    if (!e[i].defined()) continue;
    const Tensor here = e[i].to(kCpu);
    // Arithmetic on NaN has other bits on other devices; codes and scales have one form.
    if (is_float(here.dtype()) && i >= 4)
      check_numbers(here, g[i], kOutputs[i]);
    else
      check_bits(here, g[i], kOutputs[i]);
  }
}

// On the GPU against the twin, and against the CPU.
void check_pair(Kind kind, const Tensor& x, const QuantSpec& by_row, const QuantSpec& by_column,
                const Wanted& wanted = {}) {
  const bool noisy = kind == Kind::Plain || kind == Kind::GeluBackward;
  if (by_row.rounding == Rounding::Stochastic && !noisy) return;
  CAPTURE(static_cast<int>(kind));
  CAPTURE(describe(x));
  CAPTURE(to_string(by_row));
  CAPTURE(to_string(by_column));
  const Tensor here = x.to(kGpu);
  Call fused = call_of(kind, here, by_row, by_column, wanted);
  REQUIRE(has_pair(fused.source, by_row, by_column));
  run(fused);
  Call apart = call_of(kind, here, by_row, by_column, wanted);
  run_twin(apart);
  check_same(apart, fused);
  Call cpu = call_of(kind, x, by_row, by_column, wanted);
  run(cpu);
  check_same(cpu, fused);
}

}  // namespace

TEST_CASE("pair: which specs and shapes it serves") {
  const auto serves = [](const char* row, const char* column, std::int64_t rows, std::int64_t cols,
                         Kind kind = Kind::Plain, DType dtype = DType::BF16) {
    PairSource s;
    s.kind = kind;
    s.x = Tensor::empty({rows, cols}, dtype, kMeta);
    return has_pair(s, parse_spec(row), parse_spec(column));
  };
  CHECK(serves("int8:row:recip", "int8:group256:recip", 512, 768));
  CHECK(serves("int8:row:recip:sr", "int8:group256:recip:sr", 272, 3072));
  CHECK(serves("int8:group128:recip", "int8:group128:recip", 512, 768));
  CHECK(serves("int8:row:recip", "int8:group256:recip", 512, 1600, Kind::Gelu));
  CHECK_FALSE(serves("int8:row:recip", "int8:group256:recip", 512, 768, Kind::LayerNorm));
  CHECK(serves("int8:row:recip", "int8:group256:recip", 512, 50304, Kind::GeluBackward));
  CHECK_FALSE(serves("int8:row:recip", "int8:group256:recip", 520, 768));
  CHECK_FALSE(serves("int8:row:recip", "int8:group256:recip", 512, 772));
  CHECK_FALSE(serves("int8:row:recip", "int8:group256:recip:sr", 512, 768));
  CHECK_FALSE(serves("int8:row:recip", "int8:row:recip", 512, 768));
  CHECK_FALSE(serves("int8:row:recip:sr", "int8:group256:recip:sr", 512, 768, Kind::Gelu));
  CHECK_FALSE(serves("int8:row", "int8:group256:recip", 512, 768));
  CHECK_FALSE(serves("uint8:row:recip", "uint8:group256:recip", 512, 768));
  CHECK_FALSE(serves("int8:row:recip:absmax0.9", "int8:group256:recip", 512, 768));
  CHECK_FALSE(serves("int8:row:recip", "int8:group256:recip", 512, 768, Kind::Plain, DType::F64));
}

GPU_TEST("cuda pair: every source, both encodings") {
  for (const DType dtype : {DType::BF16, DType::F32})
    for (const Kind kind : kKinds)
      for (const Numbers numbers_of : kNumbers)
        for (const auto& [rows, cols] :
             {std::pair{256, 768}, {272, 72}, {128, 8}, {640, 136}, {1024, 256}}) {
          const Tensor x = numbers(numbers_of, rows, cols, dtype);
          for (const char* noise : {"", ":sr"})
            for (const char* group : {"group256", "group128"}) {
              if (!in_sample()) continue;
              const auto spec = [&](const std::string& tile) {
                return parse_spec("int8:" + tile + ":recip" + noise);
              };
              check_pair(kind, x, spec("row"), spec(group));
              if (cols % 128 == 0) check_pair(kind, x, spec("group128"), spec(group));
            }
        }
}

GPU_TEST("cuda pair: wide rows") {
  for (const auto& [cols, dtype] : {std::pair{2304, DType::BF16},
                                    {3072, DType::BF16},
                                    {1600, DType::BF16},
                                    {6400, DType::BF16},
                                    {20008, DType::BF16},  // more tiles than a GPU holds at once
                                    {1536, DType::F32},
                                    {10240, DType::F32}})
    for (const Kind kind : {Kind::Plain, Kind::Gelu, Kind::GeluBackward})
      for (const Numbers numbers_of : {Numbers::Bell, Numbers::Special}) {
        if (!in_sample()) continue;
        const Tensor x = numbers(numbers_of, cols < 10000 ? 528 : 272, cols, dtype);
        for (const char* noise : {"", ":sr"}) {
          const auto spec = [&](const std::string& tile) {
            return parse_spec("int8:" + tile + ":recip" + noise);
          };
          check_pair(kind, x, spec("row"), spec("group256"));
          if (cols % 128 == 0) check_pair(kind, x, spec("group128"), spec("group128"));
        }
      }
}

// All of those and no others, so that no number of another kind has the tile computed.
GPU_TEST("cuda pair: GELU's slope of all bf16 that its table holds") {
  std::vector<float> values;
  for (std::uint32_t bits = 0x3680; bits < 0x4180; ++bits)  // [2^-18, 16)
    for (const std::uint32_t sign : {0u, 0x8000u})
      values.push_back(std::bit_cast<float>((bits | sign) << 16));
  const Tensor x = Tensor::from(values, {704, 8}).to(DType::BF16);
  check_pair(Kind::GeluBackward, x, parse_spec("int8:row:recip"),
             parse_spec("int8:group256:recip"));
}

// fast::gelu_tanh_bf16 rests on this: each of its results, NaN and infinities too. Neighbours share
// rows and columns, so that the codes of small ones are not all zero.
GPU_TEST("cuda pair: GELU of all bf16 numbers") {
  std::vector<float> values;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits)
    values.push_back(std::bit_cast<float>(bits << 16));
  const Tensor x = Tensor::from(values, {8192, 8}).to(DType::BF16);
  for (const Kind kind : {Kind::Gelu, Kind::GeluBackward})
    check_pair(kind, x, parse_spec("int8:row:recip"), parse_spec("int8:group128:recip"));
}

GPU_TEST("cuda pair: codes by row alone") {
  const QuantSpec row = parse_spec("int8:row:recip"), column = parse_spec("int8:group256:recip");
  const Wanted rows_alone{.columns = false, .value = false, .sums = false};
  for (const DType dtype : {DType::BF16, DType::F32})
    for (const Numbers numbers_of : kNumbers)
      for (const std::int64_t cols :
           {8, 16, 32, 64, 72, 128, 256, 264, 768, 1600, 2304, 3072, 4096, 4104}) {
        if (!in_sample()) continue;
        const Tensor x = numbers(numbers_of, 272, cols, dtype);
        check_pair(Kind::Gelu, x, row, column, rows_alone);
        if (cols % 128 == 0)
          check_pair(Kind::Gelu, x, parse_spec("int8:group128:recip"), column, rows_alone);
      }
}

GPU_TEST("cuda pair: what is not wanted is not written, other formats and floors") {
  const Tensor x = numbers(Numbers::Heavy, 528, 768, DType::BF16);
  const QuantSpec row = parse_spec("int8:row:recip:sr"),
                  column = parse_spec("int8:group256:recip:sr");
  for (const Kind kind : kKinds)
    for (const int mask : {0, 1, 2, 4, 3, 5, 6})
      check_pair(kind, x, row, column,
                 {.columns = (mask & 1) != 0, .value = (mask & 2) != 0, .sums = (mask & 4) != 0});
  for (const char* options : {"int4:row:recip:floor0.5", "int8:row:recip:absmax1.5:sr"}) {
    QuantSpec by_column = parse_spec(options);
    by_column.tile = group(256);
    check_pair(Kind::Plain, x, parse_spec(options), by_column);
  }
}

GPU_TEST("cuda pair: a recorded call serves other numbers at each replay") {
  const QuantSpec row = parse_spec("int8:row:recip:sr"),
                  column = parse_spec("int8:group256:recip:sr");
  Tensor x = numbers(Numbers::Bell, 1040, 776, DType::BF16).to(kGpu);
  Call fused = call_of(Kind::GeluBackward, x, row, column, {});
  RecordedWork recorded(kGpu);
  recorded.record([&] { run(fused); });
  for (const Numbers numbers_of : {Numbers::Heavy, Numbers::Bell}) {
    x.copy_from(numbers(numbers_of, 1040, 776, DType::BF16).to(kGpu));
    recorded.replay();
    Call apart = call_of(Kind::GeluBackward, x, row, column, {});
    run_twin(apart);
    check_same(apart, fused);
  }
}

GPU_TEST("cuda pair: many rows, and outputs that touch nothing else") {
  const Tensor x = numbers(Numbers::Bell, 16000, 768, DType::BF16);
  for (const char* noise : {"", ":sr"})
    check_pair(Kind::Plain, x, parse_spec(std::string("int8:row:recip") + noise),
               parse_spec(std::string("int8:group256:recip") + noise));
  const Tensor small = numbers(Numbers::Bell, 272, 72, DType::BF16).to(kGpu);
  Call c = call_of(Kind::Gelu, small, parse_spec("int8:row:recip"),
                   parse_spec("int8:group256:recip"), {});
  std::vector<Framed> frames;
  for (Tensor* t :
       {&c.row_codes, &c.row_scales, &c.column_codes, &c.column_scales, &c.value, &c.column_sums}) {
    frames.push_back(framed(t->shape(), t->dtype(), kGpu, 0));
    *t = frames.back().inner;
  }
  run(c);
  for (const Framed& f : frames) {
    const std::vector<float> all = f.buffer.to(kCpu).to_vector();
    for (std::size_t i = 0; i < 64; ++i) {
      CHECK(all[i] == 77);
      CHECK(all[all.size() - 1 - i] == 77);
    }
  }
}
