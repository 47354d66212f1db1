// One-pass quantizers on the GPU: the bits of ranges, scales and codes apart, which is what the CPU
// halves do. Tier: exact.
#include "quant/one_pass.h"
#include "tests/cuda/quant_inputs.h"

using namespace nibble;
using namespace nibble::testing;
using quant_checks::kKey;

namespace {

const char* const kOptions[] = {"", ":recip", ":sr", ":sr:recip", ":floor0.5", ":absmax0.9:recip"};

std::vector<Tensor> encoded(const Tensor& x, const QuantSpec& spec, bool transposed) {
  const QTensor q = quantize(x, spec, kKey, transposed);
  return {q.payload(), q.scales()};
}

}  // namespace

TEST_CASE("cuda one pass: which specs have runs") {
  const auto rows = [](const char* spec, std::int64_t r, std::int64_t c) {
    return has_row_runs(parse_spec(spec), r, c);
  };
  CHECK(rows("int8:row", 3, 768));
  CHECK(rows("int5:row:sr:recip", 3, 4096));
  CHECK(rows("int8:group128", 3, 768));
  CHECK(rows("int8:row:split3", 3, 2304));
  CHECK_FALSE(rows("int8:row", 3, 4104));
  CHECK_FALSE(rows("int8:row", 3, 772));
  CHECK_FALSE(rows("int8:row", 3, 24));  // three threads
  CHECK_FALSE(rows("int8:group128", 3, 200));
  CHECK_FALSE(rows("int8:row:asym", 3, 768));
  CHECK(rows("e4m3:row", 3, 768));
  CHECK(rows("e5m2:group128", 3, 768));
  CHECK_FALSE(rows("e4m3:row:sr", 3, 768));
  CHECK_FALSE(rows("e4m3:row:recip", 3, 768));
  CHECK_FALSE(rows("e3m2:row", 3, 768));
  CHECK_FALSE(rows("int8:row:bf16math", 3, 768));
  CHECK_FALSE(rows("int4:row:packed", 3, 768));
  const auto columns = [](const char* spec, std::int64_t r, std::int64_t c) {
    return has_column_runs(parse_spec(spec), r, c);
  };
  CHECK(columns("int8:group128", 512, 72));
  CHECK(columns("int8:group256:sr", 272, 768));
  CHECK(columns("int8:group256", 128, 768));        // one tile of 128, which has runs
  CHECK_FALSE(columns("int8:group256", 144, 768));  // one tile of 144
  CHECK_FALSE(columns("int8:group64", 512, 72));
  CHECK_FALSE(columns("int8:group128", 520, 72));
  CHECK_FALSE(columns("int8:row", 512, 72));
  CHECK_FALSE(columns("e4m3:group128", 512, 72));
  const auto tiles = [](const char* spec, std::int64_t r, std::int64_t c) {
    return has_square_tiles(parse_spec(spec), r, c);
  };
  CHECK(tiles("int8:block128:sr", 3, 72));
  CHECK_FALSE(tiles("int8:block64", 128, 128));
  CHECK_FALSE(tiles("int8:block128:rowsplit3", 192, 64));
  CHECK_FALSE(tiles("int8:block128:split3", 64, 192));
  CHECK_FALSE(tiles("int8:block128", 128, 100));
  CHECK_FALSE(tiles("e4m3:block128", 128, 128));
}

GPU_TEST("cuda one pass: runs along rows") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const Numbers kind : kNumbers)
      for (const auto& [tile, cols] : {std::pair{"row", 8},
                                       {"row", 64},
                                       {"row", 256},
                                       {"row", 264},
                                       {"row", 768},
                                       {"row", 1600},
                                       {"row", 2304},
                                       {"row", 3072},
                                       {"row", 4096},
                                       {"group8", 72},
                                       {"group16", 96},
                                       {"group32", 96},
                                       {"group64", 192},
                                       {"group128", 640},
                                       {"group256", 1024},
                                       {"row:split3", 2304}})
        for (const char* format : {"int8", "int4", "uint8"})
          for (const char* options : kOptions) {
            if (!in_sample()) continue;
            const QuantSpec spec = parse_spec(std::string(format) + ":" + tile + options);
            const Tensor x = numbers(kind, 37, cols, dtype);
            REQUIRE(has_row_runs(spec, 37, cols));
            CAPTURE(to_string(spec));
            CAPTURE(cols);
            in_lockstep(
                {x}, [&](const std::vector<Tensor>& in) { return encoded(in[0], spec, false); },
                [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
            in_lockstep(
                {x},
                [&](const std::vector<Tensor>& in) {
                  return std::vector<Tensor>{fake_quantize(in[0], spec, kKey)};
                },
                [](const Tensor& cpu, const Tensor& gpu) { check_numbers(cpu, gpu); });
          }
}

GPU_TEST("cuda one pass: fp8 by runs along rows") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const Numbers kind : kNumbers)
      for (const auto& [tile, cols] : {std::pair{"row", 8},
                                       {"row", 264},
                                       {"row", 768},
                                       {"row", 1600},
                                       {"row", 2304},
                                       {"row", 3072},
                                       {"row", 4096},
                                       {"group16", 96},
                                       {"group32", 96},
                                       {"group64", 192},
                                       {"group128", 640}})
        for (const char* format : {"e4m3", "e5m2"})
          for (const char* options : {"", ":floor0.5", ":absmax0.9"}) {
            const QuantSpec spec = parse_spec(std::string(format) + ":" + tile + options);
            const Tensor x = numbers(kind, 37, cols, dtype);
            REQUIRE(has_row_runs(spec, 37, cols));
            CAPTURE(to_string(spec));
            CAPTURE(cols);
            in_lockstep(
                {x}, [&](const std::vector<Tensor>& in) { return encoded(in[0], spec, false); },
                [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
            in_lockstep(
                {x},
                [&](const std::vector<Tensor>& in) {
                  return std::vector<Tensor>{fake_quantize(in[0], spec, kKey)};
                },
                [](const Tensor& cpu, const Tensor& gpu) { check_numbers(cpu, gpu); });
          }
}

GPU_TEST("cuda one pass: runs along columns, codes of the transpose") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const Numbers kind : kNumbers)
      for (const auto& [rows, cols] : {std::pair{256, 8},
                                       {128, 72},
                                       {384, 64},
                                       {256, 72},
                                       {272, 768},
                                       {640, 136},
                                       {1024, 200}})
        for (const char* tile : {"group128", "group256"})
          for (const char* format : {"int8", "int3", "uint8"})
            for (const char* options : kOptions) {
              if (!in_sample()) continue;
              const QuantSpec spec = parse_spec(std::string(format) + ":" + tile + options);
              const Tensor x = numbers(kind, rows, cols, dtype);
              REQUIRE(has_column_runs(spec, rows, cols));
              CAPTURE(to_string(spec));
              CAPTURE(describe(x));
              in_lockstep(
                  {x}, [&](const std::vector<Tensor>& in) { return encoded(in[0], spec, true); },
                  [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
            }
}

GPU_TEST("cuda one pass: square tiles") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const Numbers kind : kNumbers)
      for (const auto& [rows, cols] :
           {std::pair{128, 128}, {1, 8}, {130, 8}, {127, 136}, {384, 768}, {200, 1000}})
        for (const char* format : {"int8", "int4", "uint8"})
          for (const char* options : kOptions) {
            const QuantSpec spec = parse_spec(std::string(format) + ":block128" + options);
            const Tensor x = numbers(kind, rows, cols, dtype);
            REQUIRE(has_square_tiles(spec, rows, cols));
            CAPTURE(to_string(spec));
            CAPTURE(describe(x));
            in_lockstep(
                {x}, [&](const std::vector<Tensor>& in) { return encoded(in[0], spec, false); },
                [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
          }
}

GPU_TEST("cuda one pass: many runs, and matrices off 16 bytes") {
  for (const char* text : {"int8:row:sr:recip", "int8:group128:recip"}) {
    const QuantSpec spec = parse_spec(text);
    const Tensor x = numbers(Numbers::Bell, 5000, 768, DType::BF16);
    in_lockstep(
        {x}, [&](const std::vector<Tensor>& in) { return encoded(in[0], spec, false); },
        [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
    in_lockstep(
        {x},
        [&](const std::vector<Tensor>& in) { return encoded(displaced(in[0], 1), spec, false); },
        [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
    const QuantSpec turned = parse_spec("int8:group256:sr:recip");
    in_lockstep(
        {x.slice(0, 0, 4992)},
        [&](const std::vector<Tensor>& in) { return encoded(displaced(in[0], 3), turned, true); },
        [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
  }
}
