#include "quant/format.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <mutex>
#include <optional>

#include "quant/codec.h"
#include "tensor/check.h"

namespace nibble {
namespace {

constexpr std::string_view kBuiltIn =
    "int2 … int8, uint2 … uint8, e4m3, e5m2, e2m1, e2m3, e3m2, "
    "dyn8, dynu8, dyn4, lin4u";
constexpr std::pair<int, int> kFloats[] = {{4, 3}, {5, 2}, {2, 1}, {2, 3}, {3, 2}};

// How many bounds lie below every float of each bucket.
std::vector<std::uint8_t> bucket_starts(const std::vector<float>& bounds) {
  std::vector<std::uint8_t> first(1u << 16);
  std::size_t below = 0;
  for (std::uint32_t key = 0; key < first.size(); ++key) {
    const std::uint32_t ordered = key << 16;
    const float lowest = std::bit_cast<float>(key >= 0x8000u ? ordered ^ 0x80000000u : ~ordered);
    while (below < bounds.size() && bounds[below] < lowest) ++below;
    first[key] = static_cast<std::uint8_t>(below);
  }
  return first;
}

std::shared_ptr<const CodeBook> make_book(const char* name, int bits, std::vector<float> values) {
  return std::make_shared<const CodeBook>(name, bits, std::move(values));
}
std::vector<float> linear4() {
  std::vector<float> values;
  for (int i = 1; i <= 16; ++i) values.push_back(static_cast<float>(i) / 16.0f);
  return values;
}

struct Registry {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<const CodeBook>, std::less<>> books;
};
Registry& registry() {
  static Registry r;
  return r;
}

// "int4" → 4 with prefix "int"; 0 when the text is something else.
int width_after(std::string_view text, std::string_view prefix) {
  if (!text.starts_with(prefix) || text.size() != prefix.size() + 1) return 0;
  const char digit = text.back();
  return digit >= '2' && digit <= '8' ? digit - '0' : 0;
}

// A format that parse() knows without registration.
std::optional<Format> built_in(std::string_view name) {
  if (const int bits = width_after(name, "int")) return Format::integer(bits, true);
  if (const int bits = width_after(name, "uint")) return Format::integer(bits, false);
  for (const auto& [e, m] : kFloats)
    if (name == fmt::format("e{}m{}", e, m)) return Format::floating(e, m);
  for (const Format& f : {Format::dynamic8(), Format::dynamic8_unsigned(), Format::dynamic4(),
                          Format::linear4_unsigned()})
    if (f.book().name == name) return f;
  return std::nullopt;
}

}  // namespace

CodeBook::CodeBook(std::string book_name, int width, std::vector<float> book_values)
    : name(std::move(book_name)), bits(width), values(std::move(book_values)) {
  constexpr const char* kOp = "code book";
  // Names stand in spec and recipe texts, whose separators must not occur in them.
  const bool plain = !name.empty() && std::ranges::all_of(name, [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-';
  });
  NIBBLE_CHECK(plain, kOp, "bad name: got '{}', expected letters, digits, '_' and '-'", name);
  NIBBLE_CHECK(bits >= 2 && bits <= 8, kOp, "'{}': got {} bits, expected 2 to 8", name, bits);
  NIBBLE_CHECK(values.size() >= 2 && values.size() <= (std::size_t{1} << bits), kOp,
               "'{}': got {} values, expected 2 to {} for {} bits", name, values.size(), 1 << bits,
               bits);
  for (std::size_t i = 0; i < values.size(); ++i) {
    NIBBLE_CHECK(std::isfinite(values[i]), kOp, "'{}': value {} is not finite", name, i);
    NIBBLE_CHECK(i == 0 || values[i - 1] < values[i], kOp,
                 "'{}': values must ascend: got {} after {}", name, values[i],
                 values[i == 0 ? 0 : i - 1]);
  }
  NIBBLE_CHECK(values.back() > 0, kOp, "'{}': the largest value is {}, expected a positive one",
               name, values.back());
  for (std::size_t i = 0; i + 1 < values.size(); ++i)
    bounds.push_back(static_cast<float>(
        (static_cast<double>(values[i]) + static_cast<double>(values[i + 1])) / 2));
  first = bucket_starts(bounds);
  for (std::size_t key = 0; key + 1 < first.size(); ++key)
    most_moves = std::max(most_moves, first[key + 1] - first[key]);
}

Format Format::integer(int bits, bool is_signed) {
  NIBBLE_CHECK(bits >= 2 && bits <= 8, "format", "integer width: got {} bits, expected 2 to 8",
               bits);
  return Format(Kind::Int, bits, is_signed, 0, 0, nullptr);
}

Format Format::floating(int exponent_bits, int mantissa_bits) {
  const bool known = std::ranges::count(kFloats, std::pair(exponent_bits, mantissa_bits)) > 0;
  NIBBLE_CHECK(known, "format", "got e{}m{}, expected e4m3, e5m2, e2m1, e2m3 or e3m2",
               exponent_bits, mantissa_bits);
  return Format(Kind::Float, 1 + exponent_bits + mantissa_bits, true, exponent_bits, mantissa_bits,
                nullptr);
}

Format Format::code_book(std::shared_ptr<const CodeBook> b) {
  NIBBLE_CHECK(b != nullptr, "format", "got no code book");
  const int bits = b->bits;
  const bool is_signed = b->values.front() < 0;
  return Format(Kind::CodeBook, bits, is_signed, 0, 0, std::move(b));
}

Format Format::dynamic8() {
  static const auto b = make_book("dyn8", 8, dynamic_map(true, 7, 8));
  return code_book(b);
}
Format Format::dynamic8_unsigned() {
  static const auto b = make_book("dynu8", 8, dynamic_map(false, 7, 8));
  return code_book(b);
}
Format Format::dynamic4() {
  static const auto b = make_book("dyn4", 4, dynamic_map(true, 3, 4));
  return code_book(b);
}
Format Format::linear4_unsigned() {
  static const auto b = make_book("lin4u", 4, linear4());
  return code_book(b);
}

Format Format::parse(std::string_view name) {
  if (const auto known = built_in(name)) return *known;
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  if (const auto found = r.books.find(name); found != r.books.end())
    return code_book(found->second);
  std::string own;
  for (const auto& entry : r.books) own += ", " + entry.first;
  fail("format", "unknown name: got '{}', expected {}{}", name, kBuiltIn, own);
}

void Format::register_code_book(std::shared_ptr<const CodeBook> b) {
  NIBBLE_CHECK(b != nullptr, "code book", "got no code book");
  NIBBLE_CHECK(!built_in(b->name), "code book", "'{}' is a built-in format; choose another name",
               b->name);
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  const auto [at, added] = r.books.emplace(b->name, b);
  NIBBLE_CHECK(added || code_book(at->second) == code_book(b), "code book",
               "'{}' is registered with other values", b->name);
}

float Format::max_value() const {
  switch (kind_) {
    case Kind::Int: return static_cast<float>(qmax());
    case Kind::Float: return codec::SmallFloat::max_value(exponent_, mantissa_);
    case Kind::CodeBook: break;
  }
  return book_->values.back();
}

float Format::value_of(std::uint8_t byte) const {
  switch (kind_) {
    case Kind::Int: return signed_ ? static_cast<std::int8_t>(byte) : byte;
    case Kind::Float: return codec::decode_float(exponent_, mantissa_, byte);
    case Kind::CodeBook: break;
  }
  return byte < book_->values.size() ? book_->values[byte] : book_->values.back();
}

DType Format::payload() const {
  if (kind_ == Kind::Int) return signed_ ? DType::I8 : DType::U8;
  if (kind_ == Kind::Float && exponent_ == 4) return DType::E4M3;
  if (kind_ == Kind::Float && exponent_ == 5) return DType::E5M2;
  return DType::U8;
}

std::string Format::name() const {
  switch (kind_) {
    case Kind::Int: return fmt::format("{}{}", signed_ ? "int" : "uint", bits_);
    case Kind::Float: return fmt::format("e{}m{}", exponent_, mantissa_);
    case Kind::CodeBook: break;
  }
  return book_->name;
}

bool Format::operator==(const Format& o) const {
  if (kind_ != o.kind_ || bits_ != o.bits_ || signed_ != o.signed_ || exponent_ != o.exponent_ ||
      mantissa_ != o.mantissa_)
    return false;
  return book_ == o.book_ || (book_->name == o.book_->name && book_->values == o.book_->values);
}

std::vector<float> dynamic_map(bool is_signed, int exponent_bits, int bits) {
  NIBBLE_CHECK(bits >= 2 && bits <= 8 && exponent_bits >= 1 && exponent_bits < bits, "dynamic map",
               "got {} bits with {} decades, expected 2 to 8 bits and fewer decades than bits",
               bits, exponent_bits);
  std::vector<float> values{0.0f, 1.0f};
  for (int i = 0; i < exponent_bits; ++i) {
    // Decade i holds the midpoints of n + 1 equally spaced points of [0.1, 1].
    const int n = 1 << (i + bits - 1 - exponent_bits + (is_signed ? 0 : 1));
    double decade = 1;
    for (int k = i + 1; k < exponent_bits; ++k) decade *= 10;
    for (int k = 0; k < n; ++k) {
      // (1 + 9 (2k + 1) / 2n) / 10 as one quotient of whole numbers, so that it rounds once.
      const double numerator = 2 * n + 9 * (2 * k + 1);
      const auto value = static_cast<float>(numerator / (20.0 * n * decade));
      values.push_back(value);
      if (is_signed) values.push_back(-value);
    }
  }
  std::ranges::sort(values);
  return values;
}

}  // namespace nibble
