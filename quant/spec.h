// QuantSpec: everything that decides a tensor's codes, stated in the matrix's own [rows, cols].
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "quant/format.h"
#include "tensor/shape.h"

namespace nibble {

// The block of elements that share a scale; 0 = the whole extent. Granularity is nothing else.
struct Tile {
  std::int64_t rows = 0, cols = 0;
  constexpr Tile t() const { return {cols, rows}; }
  bool operator==(const Tile&) const = default;
};
inline constexpr Tile kPerTensor{0, 0};
inline constexpr Tile kPerRow{1, 0};     // a token, or an output channel of a weight
inline constexpr Tile kPerColumn{0, 1};  // a channel over all tokens
constexpr Tile group(std::int64_t g) { return {1, g}; }
constexpr Tile block(std::int64_t b) { return {b, b}; }

enum class Rounding : std::uint8_t { Nearest, Stochastic };  // half to even; rne(x + u − ½)
// How scales are stored. PowerOfTwo rounds the step up to a power of two kept in f32; E8M0 is the
// same in one byte; TwoLevel keeps e4m3 scales relative to one f32 for the tensor (NVFP4's form).
enum class ScaleType : std::uint8_t { F32, BF16, PowerOfTwo, E8M0, TwoLevel };
// x / step as the study does, or x · (1 / step) as fast kernels do: up to one code apart at ties.
enum class Scaling : std::uint8_t { Divide, Reciprocal };
// F32, or every intermediate rounded to bf16 as the study's bf16 tensors are (parity tests only).
enum class Arithmetic : std::uint8_t { F32, BF16 };

// Which range maps to the format's largest value.
struct Calibration {
  enum class Kind : std::uint8_t {
    AbsMax,    // value · max|x| (value < 1 clips)
    AbsMean,   // value · mean|x|
    Mse,       // of `value` candidates c/value · max|x|, c = 1 … value, the least squared error
    Constant,  // value itself
  };
  Kind kind = Kind::AbsMax;
  float value = 1;
  // Delayed scaling: the largest of the ranges that the tensor had in this many steps before
  // decides; 0: its own range now, which takes a pass of its own. Only where a ScaleHistory is kept
  // (quant/scale_history.h), so in training; elsewhere the spec is read as with 0.
  int history = 0;
  bool operator==(const Calibration&) const = default;
};

// Least range of a tile: absolute, or relative to the tensor's largest range. 0: none, and a zero
// tile has scale 0 and decodes to zeros.
struct Floor {
  float value = 0;
  bool relative = false;
  bool operator==(const Floor&) const = default;
};

struct QuantSpec {
  Format format;
  Tile tile = kPerTensor;
  Rounding rounding = Rounding::Nearest;
  ScaleType scale = ScaleType::F32;
  Scaling scaling = Scaling::Divide;
  Calibration calibration;
  Floor floor;
  bool symmetric = true;  // false: zero points; integers only
  int row_splits = 1;     // equal parts of the rows / columns that never share a scale: Q, K and V
  int col_splits = 1;
  bool packed = false;  // two codes a byte along the columns; formats of at most 4 bits
  Arithmetic arithmetic = Arithmetic::F32;

  QuantSpec t() const;  // the spec of the transposed matrix that keeps every element's code
  bool operator==(const QuantSpec&) const = default;
  // Throws Error("quant spec") on what no matrix could satisfy (asymmetric floats, packed int8, …).
  void validate() const;
  // The tile with whole extents and splits resolved for a [rows, cols] matrix; throws when the
  // splits don't divide it.
  Tile resolve(std::int64_t rows, std::int64_t cols) const;
  // [ceil(rows / tile.rows), ceil(cols / tile.cols)]
  Shape scale_shape(std::int64_t rows, std::int64_t cols) const;
  DType payload() const { return packed ? DType::U4x2 : format.payload(); }
};

// Text form, e.g. "int8:row", "int4:group128:sr", "uint8:tensor:asym:floor1e-5",
// "e4m3:block128:e8m0", "int8:col:split3", "e5m2:tensor:delayed16". to_string(parse_spec(s)) is
// canonical and round-trips every field.
QuantSpec parse_spec(std::string_view text);
std::string to_string(const QuantSpec& spec);

}  // namespace nibble
