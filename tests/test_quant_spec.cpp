// Specs: text form, resolution of tiles, and every refusal.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "quant/spec.h"
#include "tests/temp_dir.h"

namespace nibble {
namespace {

using test::message_of;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_CASE("quant spec: text round-trips every field") {
  const std::vector<Format> formats{Format::integer(8),     Format::integer(3, false),
                                    Format::floating(5, 2), Format::floating(2, 1),
                                    Format::dynamic8(),     Format::linear4_unsigned()};
  const std::vector<Tile> tiles{kPerTensor, kPerRow, kPerColumn, group(32),
                                block(128), {0, 16}, {128, 1},   {1, 1}};
  const std::vector<Calibration> calibrations{{},
                                              {Calibration::Kind::AbsMax, 0.9f},
                                              {Calibration::Kind::AbsMean, 2.5f},
                                              {Calibration::Kind::Mse, 100},
                                              {Calibration::Kind::Constant, 1e-7f}};
  const std::vector<Floor> floors{{}, {1e-5f, false}, {0.1f, true}};
  int tried = 0;
  for (const Format& format : formats)
    for (const Tile& tile : tiles)
      for (const Calibration& calibration : calibrations)
        for (const Floor& floor : floors)
          for (int bits = 0; bits < 5 * 32; ++bits) {
            QuantSpec s;
            s.format = format;
            s.tile = tile;
            s.calibration = calibration;
            s.floor = floor;
            s.scale = static_cast<ScaleType>(bits / 32);
            if (bits & 1) s.rounding = Rounding::Stochastic;
            if (bits & 2) s.scaling = Scaling::Reciprocal;
            if (bits & 4) s.col_splits = 3;
            if (bits & 8) s.row_splits = 2;
            if (bits & 16) s.packed = format.bits() <= 4;
            const std::string text = to_string(s);
            if (!(parse_spec(text) == s) || to_string(parse_spec(text)) != text) FAIL_CHECK(text);
            if (!(s.t().t() == s)) FAIL_CHECK(text);
            ++tried;
          }
  CHECK(tried == 6 * 8 * 5 * 3 * 160);
  for (const char* text :
       {"int8:row", "int4:group128:sr", "uint8:tensor:asym:floor1e-05", "e4m3:block128:e8m0",
        "int8:col:split3", "int8:row:floor1e-05:bf16math",
        "int4:group32:sr:bf16:recip:absmax0.9:asym:relfloor0.25:split3:packed"}) {
    CHECK(to_string(parse_spec(text)) == text);
  }
  CHECK(to_string(parse_spec("int8")) == "int8:tensor");
  CHECK(to_string(parse_spec("int8:sr:row")) == "int8:row:sr");
  CHECK(parse_spec("uint8:tensor:asym:floor1e-5").floor == Floor{1e-5f, false});
}

TEST_CASE("quant spec: tiles resolve to whole extents, splits and tails") {
  const auto shape = [](const char* text, std::int64_t rows, std::int64_t cols) {
    return parse_spec(text).scale_shape(rows, cols);
  };
  CHECK(shape("int8:tensor", 6, 10) == Shape{1, 1});
  CHECK(shape("int8:row", 6, 10) == Shape{6, 1});
  CHECK(shape("int8:col", 6, 10) == Shape{1, 10});
  CHECK(shape("int8:group4", 6, 10) == Shape{6, 3});
  CHECK(shape("int8:group64", 6, 10) == Shape{6, 1});
  CHECK(shape("int8:block4", 6, 10) == Shape{2, 3});
  CHECK(shape("int8:tensor:split2", 6, 10) == Shape{1, 2});
  CHECK(shape("int8:row:split2", 6, 10) == Shape{6, 2});
  CHECK(shape("int8:tensor:rowsplit3", 6, 10) == Shape{3, 1});
  CHECK(shape("int8:group5:split2", 6, 10) == Shape{6, 2});
  CHECK(shape("int8:row", 0, 10) == Shape{0, 1});
  CHECK(parse_spec("int8:tile2x3").resolve(6, 10) == Tile{2, 3});
  CHECK(parse_spec("int8:tensor").resolve(6, 10) == Tile{6, 10});
  CHECK(contains(message_of([&] { shape("int8:tensor:split3", 6, 10); }),
                 "quant spec: 10 columns cannot be split in 3 equal parts"));
  CHECK(contains(message_of([&] { shape("int8:group4:split2", 6, 10); }),
                 "tiles of 4 columns don't divide the 5 of a split"));
  CHECK(contains(message_of([&] { shape("int8:block4:rowsplit2", 6, 10); }),
                 "tiles of 4 rows") == false);  // a part of 3 rows is one smaller tile
}

TEST_CASE("quant spec: transposing keeps scales with their elements") {
  const QuantSpec s = parse_spec("int8:group16:split3");
  CHECK(s.t() == parse_spec("int8:tile16x1:rowsplit3"));
  CHECK(s.t().scale_shape(48, 5) == Shape{3, 5});
  CHECK(parse_spec("int8:block32").t() == parse_spec("int8:block32"));
  CHECK(parse_spec("int4:row:packed").payload() == DType::U4x2);
  CHECK(parse_spec("uint4:row").payload() == DType::U8);
}

TEST_CASE("quant spec: every refusal says what was wrong") {
  const auto refusal = [](const std::string& text) {
    return message_of([&] { parse_spec(text); });
  };
  const std::vector<std::pair<std::string, std::string>> cases{
      {"int9:row", "format: unknown name: got 'int9'"},
      {"", "format: unknown name: got ''"},
      {"int8:rows", "unknown word 'rows' in 'int8:rows', expected tensor, row, col"},
      {"int8:", "unknown word ''"},
      {"int8:group", "unknown word 'group'"},
      {"int8:group12x", "unknown word 'group12x'"},
      {"int8:row:col", "'col' in 'int8:row:col' repeats or contradicts"},
      {"int8:sr:sr", "repeats or contradicts"},
      {"int8:group-4", "negative tile: got 1 x -4"},
      {"int8:split0", "got 1 row and 0 column splits"},
      {"int8:rowsplit-1", "got -1 row and 1 column splits"},
      {"int8:absmax0", "calibration: got 0, expected a positive number"},
      {"int8:constinf", "calibration: got inf"},
      {"int8:absmeannan", "calibration: got nan"},
      {"int8:mse2.5", "mse calibration: got 2.5, expected a whole number"},
      {"int8:mse20000", "mse calibration: got 20000"},
      {"int8:floor-1", "floor: got -1, expected at least 0"},
      {"int8:relfloor1.5", "relative floor: got 1.5"},
      {"e4m3:row:asym", "zero points need an integer format: got e4m3"},
      {"int8:row:asym:mse10", "zero points need the absmax calibration"},
      {"int8:row:packed", "packed codes have at most 4 bits: got int8 of 8 bits"},
      {"int8:row:sr:bf16math", "bf16 arithmetic emulates the study's quantizers only"},
      {"e4m3:row:bf16math", "bf16 arithmetic emulates"},
      {"int8:row:recip:bf16math", "bf16 arithmetic emulates"},
      {"int8:row:pow2:bf16math", "bf16 arithmetic emulates"},
      {"int8:row:relfloor0.1:bf16math", "bf16 arithmetic emulates"},
  };
  for (const auto& [text, expected] : cases) {
    CAPTURE(text);
    const std::string got = refusal(text);
    CAPTURE(got);
    CHECK(contains(got, expected));
  }
}

}  // namespace
}  // namespace nibble
