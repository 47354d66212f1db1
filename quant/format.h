// Format: what one code means. A format is data: an integer of 2 to 8 bits, a small float, or a
// code book; each has a payload dtype, a largest value, and scalar encode/decode shared by both
// devices.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/dtype.h"

namespace nibble {

// Ascending values; code i stands for values[i]. bounds[i] is the midpoint of values[i],
// values[i+1], rounded to f32 once; a value on it takes the lower code.
struct CodeBook {
  CodeBook(std::string name, int bits, std::vector<float> values);  // throws Error("code book")
  std::string name;
  int bits;  // 2 to 8; at most 2^bits values
  std::vector<float> values, bounds;
  // For every upper half of an f32's ordered bits (codec::book_bucket): how many bounds lie below
  // all floats of that bucket. The search for a code starts there and moves on at most most_moves
  // times.
  std::vector<std::uint8_t> first;
  int most_moves = 0;
};

class Format {
 public:
  enum class Kind : std::uint8_t { Int, Float, CodeBook };

  Format() : Format(Kind::Int, 8, true, 0, 0, nullptr) {}  // int8
  static Format integer(int bits, bool is_signed = true);
  // e4m3 (finite, max 448), e5m2 (max 57344, no infinities produced), and the OCP MX small floats
  // e2m1, e2m3, e3m2, which use every code for a finite value; other pairs throw.
  static Format floating(int exponent_bits, int mantissa_bits);
  static Format code_book(std::shared_ptr<const CodeBook> book);
  // The dynamic maps for Adam moments (low-precision-training.md (h)).
  static Format dynamic8();           // signed, 256 codes, −0.993 … 1
  static Format dynamic8_unsigned();  // 256 codes, 0 … 1
  static Format dynamic4();           // signed, 16 codes
  static Format linear4_unsigned();   // 1/16 … 1, no zero: for second moments
  // "int8" "uint4" "e4m3" "e5m2" "e2m1" "dyn8" "dynu8" "dyn4" "lin4u", or a registered code book's
  // name.
  static Format parse(std::string_view name);
  // Makes a user's code book known to parse() (configs, checkpoints). Same name, other values:
  // throws.
  static void register_code_book(std::shared_ptr<const CodeBook> book);

  Kind kind() const { return kind_; }
  bool is_integer() const { return kind_ == Kind::Int; }
  bool is_float() const { return kind_ == Kind::Float; }
  int bits() const { return bits_; }
  bool is_signed() const { return signed_; }
  int exponent_bits() const { return exponent_; }
  int mantissa_bits() const { return mantissa_; }
  const CodeBook& book() const { return *book_; }
  int qmin() const { return signed_ ? -(1 << (bits_ - 1)) : 0; }  // integers only
  int qmax() const { return signed_ ? (1 << (bits_ - 1)) - 1 : (1 << bits_) - 1; }
  // What the range maps to: qmax, the largest float, or the code book's largest value.
  float max_value() const;
  // What a payload byte stands for before scaling (an I8 code as its two's complement byte); NaN
  // for fp8's codes that are not finite. Bytes beyond a code book's values mean its last one.
  float value_of(std::uint8_t byte) const;
  // Payload when one code takes a byte. Integers: I8 or U8; fp8: E4M3, E5M2; the rest: U8 indices.
  DType payload() const;
  std::string name() const;
  bool operator==(const Format& o) const;

 private:
  Format(Kind kind, int bits, bool is_signed, int e, int m, std::shared_ptr<const CodeBook> book)
      : kind_(kind),
        bits_(bits),
        signed_(is_signed),
        exponent_(e),
        mantissa_(m),
        book_(std::move(book)) {}
  Kind kind_;
  int bits_;
  bool signed_;
  int exponent_, mantissa_;
  std::shared_ptr<const CodeBook> book_;
};

// values = the "dynamic map" of `bits` bits with `exponent_bits` decades (bitsandbytes'
// construction, restated in low-precision-training.md (h)).
std::vector<float> dynamic_map(bool is_signed, int exponent_bits, int bits);

}  // namespace nibble
