// How a state's spec is decoded and encoded by lanes that hold eight elements each: constants and
// tables of a format, made on the host and passed as a kernel parameter, so that a captured graph
// holds them.
#pragma once

#include <cstdint>
#include <optional>

#include "quant/scale_math.h"

namespace nibble::cuda {

// A code book's search. A bucket is the upper half of an f32; where none holds more than one bound,
// one look at a table and one addition tell the code (Window), else a binary search does.
struct BookSearch {
  static constexpr std::uint32_t kMostEntries = 5632;  // of the table: 22 KiB

  float bounds[256];  // ascending, then infinity
  std::uint32_t size;
  std::int32_t low, high;  // buckets of magnitudes from below the least bound to above the largest
  std::uint32_t side;      // entries of each sign; those of negative values follow
  bool has_window, has_negative;
  bool apart;   // a value near a bucket's edge has at most one bound near it
  bool floors;  // no bucket holds more than one of its 256 values but 0, and all lie in the window

  NIBBLE_HD std::uint32_t entries() const { return has_window ? side * (has_negative ? 2 : 1) : 0; }
};

struct StateCode {
  enum class Kind : std::uint8_t { Int, Float, Book };

  bool coded = false;  // false: values, and nothing below counts
  Kind kind = Kind::Int;
  ScaleType scale = ScaleType::F32;
  bool packed = false, stochastic = false, reciprocal = false;
  std::uint32_t log_group = 0;  // elements
  std::uint32_t lanes = 0;      // that hold a group; 64: the whole of two vectors a lane
  float low = 0, high = 0;      // integers
  std::uint32_t sign = 0;       // its bit in an integer's code; 0: unsigned
  codec::SmallFloat small{4, 3};
  codec::RangeRule range{QuantSpec{}};
  codec::StepRule step{QuantSpec{}};
  BookSearch book{};
  float values[256] = {};  // of a float's or a book's codes

  explicit StateCode(const std::optional<QuantSpec>& spec);
  // The step is the largest magnitude, or the floor where that is more.
  bool has_plain_step() const {
    return range.kind == Calibration::Kind::AbsMax && range.value == 1 && !range.bf16 &&
           step.parts == 1 && !step.bf16 && !step.relative && scale == ScaleType::F32;
  }
  bool is_plain_book(bool with_negative) const {
    return coded && book.has_negative == with_negative && kind == Kind::Book && !packed &&
           !stochastic && !reciprocal && book.has_window && book.apart && has_plain_step();
  }
  // Of magnitudes, rounded stochastically from products with the step's inverse.
  bool is_stochastic_book() const {
    return coded && !book.has_negative && kind == Kind::Book && !packed && stochastic &&
           reciprocal && book.has_window && book.floors && has_plain_step();
  }
};

}  // namespace nibble::cuda
