#include "quant/spec.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>
#include <vector>

#include "tensor/check.h"

namespace nibble {
namespace {

constexpr const char* kOp = "quant spec";
constexpr int kMaxHistory = 4096;

// Extent of a tile along a dimension of n elements cut into `splits` parts.
std::int64_t resolve_extent(std::int64_t tile, std::int64_t n, int splits, const char* dimension) {
  NIBBLE_CHECK(n % splits == 0, kOp, "{} {} cannot be split in {} equal parts", n, dimension,
               splits);
  const std::int64_t part = std::max<std::int64_t>(n / splits, 1);
  if (tile == 0 || tile >= part) return part;
  // A tile that crosses from one part into the next would share a scale between them.
  NIBBLE_CHECK(splits == 1 || part % tile == 0, kOp,
               "tiles of {} {} don't divide the {} of a split", tile, dimension, part);
  return tile;
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// ---- text ----------------------------------------------------------------------------------

constexpr std::string_view kWords =
    "tensor, row, col, groupN, blockN, tileRxC, sr, bf16, pow2, e8m0, twolevel, recip, absmaxF, "
    "absmeanF, mseN, constF, delayedN, asym, floorF, relfloorF, splitN, rowsplitN, packed, "
    "bf16math";

template <class T>
bool read_number(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}
// Reads the number after `prefix`; false when the word is another one.
template <class T>
bool read(std::string_view word, std::string_view prefix, T& value) {
  return word.starts_with(prefix) && read_number(word.substr(prefix.size()), value);
}

bool read_tile(std::string_view word, Tile& tile) {
  std::int64_t n = 0;
  if (word == "tensor") return tile = kPerTensor, true;
  if (word == "row") return tile = kPerRow, true;
  if (word == "col") return tile = kPerColumn, true;
  if (read(word, "group", n)) return tile = group(n), true;
  if (read(word, "block", n)) return tile = block(n), true;
  const auto x = word.find('x');
  if (!word.starts_with("tile") || x == std::string_view::npos) return false;
  return read_number(word.substr(4, x - 4), tile.rows) &&
         read_number(word.substr(x + 1), tile.cols);
}

bool read_calibration(std::string_view word, Calibration& calibration) {
  using enum Calibration::Kind;
  float value = 0;
  const auto set = [&](Calibration::Kind kind) {
    calibration.kind = kind;
    calibration.value = value;
    return true;
  };
  if (read(word, "absmax", value)) return set(AbsMax);
  if (read(word, "absmean", value)) return set(AbsMean);
  if (read(word, "mse", value)) return set(Mse);
  if (read(word, "const", value)) return set(Constant);
  return false;
}

// The part of the spec that a word sets; words of one part exclude each other.
enum Part {
  kTile,
  kRounding,
  kScale,
  kScaling,
  kCalibration,
  kDelay,
  kZero,
  kFloor,
  kCols,
  kRows,
  kPacked,
  kMath,
  kUnknown
};

Part apply(std::string_view word, QuantSpec& s) {
  if (read_tile(word, s.tile)) return kTile;
  if (word == "sr") return s.rounding = Rounding::Stochastic, kRounding;
  if (word == "bf16") return s.scale = ScaleType::BF16, kScale;
  if (word == "pow2") return s.scale = ScaleType::PowerOfTwo, kScale;
  if (word == "e8m0") return s.scale = ScaleType::E8M0, kScale;
  if (word == "twolevel") return s.scale = ScaleType::TwoLevel, kScale;
  if (word == "recip") return s.scaling = Scaling::Reciprocal, kScaling;
  if (read_calibration(word, s.calibration)) return kCalibration;
  if (read(word, "delayed", s.calibration.history)) return kDelay;
  if (word == "asym") return s.symmetric = false, kZero;
  if (read(word, "floor", s.floor.value)) return s.floor.relative = false, kFloor;
  if (read(word, "relfloor", s.floor.value)) return s.floor.relative = true, kFloor;
  if (read(word, "split", s.col_splits)) return kCols;
  if (read(word, "rowsplit", s.row_splits)) return kRows;
  if (word == "packed") return s.packed = true, kPacked;
  if (word == "bf16math") return s.arithmetic = Arithmetic::BF16, kMath;
  return kUnknown;
}

std::string tile_word(const Tile& t) {
  if (t == kPerTensor) return "tensor";
  if (t == kPerRow) return "row";
  if (t == kPerColumn) return "col";
  if (t.rows == 1) return fmt::format("group{}", t.cols);
  if (t.rows == t.cols) return fmt::format("block{}", t.rows);
  return fmt::format("tile{}x{}", t.rows, t.cols);
}

std::string_view scale_word(ScaleType scale) {
  switch (scale) {
    case ScaleType::F32: break;
    case ScaleType::BF16: return ":bf16";
    case ScaleType::PowerOfTwo: return ":pow2";
    case ScaleType::E8M0: return ":e8m0";
    case ScaleType::TwoLevel: return ":twolevel";
  }
  return "";
}

std::string calibration_word(const Calibration& c) {
  using enum Calibration::Kind;
  if (c.kind == AbsMax && c.value == 1) return "";
  const char* name = c.kind == AbsMax    ? "absmax"
                     : c.kind == AbsMean ? "absmean"
                     : c.kind == Mse     ? "mse"
                                         : "const";
  return fmt::format(":{}{}", name, c.value);
}

}  // namespace

QuantSpec QuantSpec::t() const {
  QuantSpec s = *this;
  s.tile = tile.t();
  std::swap(s.row_splits, s.col_splits);
  return s;
}

void QuantSpec::validate() const {
  using enum Calibration::Kind;
  const float c = calibration.value;
  NIBBLE_CHECK(tile.rows >= 0 && tile.cols >= 0, kOp,
               "negative tile: got {} x {}, expected extents of at least 0 (0 = whole)", tile.rows,
               tile.cols);
  NIBBLE_CHECK(row_splits >= 1 && col_splits >= 1, kOp,
               "got {} row and {} column splits, expected at least 1", row_splits, col_splits);
  NIBBLE_CHECK(std::isfinite(c) && c > 0, kOp, "calibration: got {}, expected a positive number",
               c);
  NIBBLE_CHECK(calibration.kind != Mse || (c == std::floor(c) && c <= 10000), kOp,
               "mse calibration: got {}, expected a whole number of candidates, 1 to 10000", c);
  NIBBLE_CHECK(std::isfinite(floor.value) && floor.value >= 0, kOp,
               "floor: got {}, expected at least 0", floor.value);
  NIBBLE_CHECK(!floor.relative || floor.value <= 1, kOp,
               "relative floor: got {}, expected a share of the tensor's range, at most 1",
               floor.value);
  NIBBLE_CHECK(symmetric || format.is_integer(), kOp, "zero points need an integer format: got {}",
               format.name());
  NIBBLE_CHECK(symmetric || calibration.kind == AbsMax, kOp,
               "zero points need the absmax calibration, which gives a least and a largest value");
  NIBBLE_CHECK(!packed || format.bits() <= 4, kOp,
               "packed codes have at most 4 bits: got {} of {} bits", format.name(), format.bits());
  NIBBLE_CHECK(calibration.history >= 0 && calibration.history <= kMaxHistory, kOp,
               "delayed scaling: got a history of {} steps, expected 1 to {}", calibration.history,
               kMaxHistory);
  NIBBLE_CHECK(
      calibration.history == 0 || (tile == kPerTensor && symmetric && calibration.kind == AbsMax &&
                                   (scale == ScaleType::F32 || scale == ScaleType::PowerOfTwo) &&
                                   !packed && row_splits == 1 && col_splits == 1),
      kOp,
      "delayed scaling remembers one range a tensor: it needs the tile tensor, absmax, "
      "f32 or pow2 scales, no zero points, no splits, codes of a byte");
  if (arithmetic == Arithmetic::F32) return;
  NIBBLE_CHECK(format.is_integer() && scale == ScaleType::F32 && scaling == Scaling::Divide &&
                   rounding == Rounding::Nearest && calibration == Calibration{} && !floor.relative,
               kOp,
               "bf16 arithmetic emulates the study's quantizers only: integers, f32 scales, "
               "division, nearest, absmax and an absolute floor");
}

Tile QuantSpec::resolve(std::int64_t rows, std::int64_t cols) const {
  return {resolve_extent(tile.rows, rows, row_splits, "rows"),
          resolve_extent(tile.cols, cols, col_splits, "columns")};
}

Shape QuantSpec::scale_shape(std::int64_t rows, std::int64_t cols) const {
  const Tile t = resolve(rows, cols);
  return {ceil_div(rows, t.rows), ceil_div(cols, t.cols)};
}

QuantSpec parse_spec(std::string_view text) {
  QuantSpec spec;
  auto colon = text.find(':');
  spec.format = Format::parse(text.substr(0, colon));
  unsigned seen = 0;
  while (colon != std::string_view::npos) {
    const auto begin = colon + 1;
    colon = text.find(':', begin);
    const std::string_view word =
        text.substr(begin, colon == std::string_view::npos ? colon : colon - begin);
    const Part part = apply(word, spec);
    NIBBLE_CHECK(part != kUnknown, kOp, "unknown word '{}' in '{}', expected {}", word, text,
                 kWords);
    NIBBLE_CHECK(!(seen & (1u << part)), kOp, "'{}' in '{}' repeats or contradicts an earlier word",
                 word, text);
    seen |= 1u << part;
  }
  spec.validate();
  return spec;
}

std::string to_string(const QuantSpec& s) {
  std::string text = s.format.name() + ":" + tile_word(s.tile);
  if (s.rounding == Rounding::Stochastic) text += ":sr";
  text += scale_word(s.scale);
  if (s.scaling == Scaling::Reciprocal) text += ":recip";
  text += calibration_word(s.calibration);
  if (s.calibration.history != 0) text += fmt::format(":delayed{}", s.calibration.history);
  if (!s.symmetric) text += ":asym";
  if (s.floor != Floor{})
    text += fmt::format(":{}{}", s.floor.relative ? "relfloor" : "floor", s.floor.value);
  if (s.col_splits != 1) text += fmt::format(":split{}", s.col_splits);
  if (s.row_splits != 1) text += fmt::format(":rowsplit{}", s.row_splits);
  if (s.packed) text += ":packed";
  if (s.arithmetic == Arithmetic::BF16) text += ":bf16math";
  return text;
}

}  // namespace nibble
