#include "optim/cuda/state_code.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace nibble::cuda {
namespace {

std::int32_t bucket_of(float magnitude) {
  return static_cast<std::int32_t>((std::bit_cast<std::uint32_t>(magnitude) & 0x7fffffffu) >> 16);
}

// How many floats two bounds keep between them and their buckets' edges, at least.
constexpr std::uint32_t kApart = 16;

bool is_below_edge(float x) {
  return (std::bit_cast<std::uint32_t>(x) & 0xffffu) < 0x10000u - kApart;
}
bool are_apart(float a, float b) {
  if (std::abs(bucket_of(a) - bucket_of(b)) != 1) return true;
  const auto [low, high] = std::minmax({std::abs(a), std::abs(b)});
  return is_below_edge(low) && (std::bit_cast<std::uint32_t>(high) & 0xffffu) >= kApart;
}

BookSearch search_of(const CodeBook& book) {
  BookSearch s{};
  std::ranges::fill(s.bounds, std::numeric_limits<float>::infinity());
  std::ranges::copy(book.bounds, s.bounds);
  s.size = static_cast<std::uint32_t>(book.values.size());
  s.low = bucket_of(book.bounds.front()), s.high = s.low;
  bool alone = true;
  s.apart = true;
  for (std::size_t i = 0; i < book.bounds.size(); ++i) {
    s.low = std::min(s.low, bucket_of(book.bounds[i]));
    s.high = std::max(s.high, bucket_of(book.bounds[i]));
    if (i == 0) continue;
    alone = alone && codec::book_bucket(book.bounds[i - 1]) != codec::book_bucket(book.bounds[i]);
    s.apart = s.apart && are_apart(book.bounds[i - 1], book.bounds[i]);
  }
  s.apart = s.apart && is_below_edge(book.bounds.front()) && is_below_edge(book.bounds.back());
  // The outermost buckets hold no bound: they stand for all beyond.
  --s.low, ++s.high;
  s.side = static_cast<std::uint32_t>(s.high - s.low + 1);
  s.has_negative = book.bounds.front() < 0;
  s.has_window = true;
  s.has_window = alone && s.low >= 0 && s.entries() <= BookSearch::kMostEntries;
  const std::vector<float>& values = book.values;
  s.floors = values.size() == 256 && values[0] == 0 && bucket_of(values[1]) > s.low &&
             bucket_of(values[255]) <= s.high;
  for (std::size_t i = 2; i < values.size(); ++i)
    s.floors = s.floors && bucket_of(values[i - 1]) != bucket_of(values[i]);
  return s;
}

}  // namespace

StateCode::StateCode(const std::optional<QuantSpec>& stated) {
  if (!stated) return;
  const QuantSpec& spec = *stated;
  coded = true;
  scale = spec.scale;
  packed = spec.packed;
  stochastic = spec.rounding == Rounding::Stochastic;
  reciprocal = spec.scaling == Scaling::Reciprocal;
  lanes = static_cast<std::uint32_t>(spec.tile.cols / 8);
  log_group = static_cast<std::uint32_t>(std::countr_zero(lanes)) + 3;
  range = codec::RangeRule(spec);
  step = codec::StepRule(spec);
  const Format& f = spec.format;
  if (f.is_integer()) {
    low = static_cast<float>(f.qmin()), high = static_cast<float>(f.qmax());
    // One code a byte is a whole two's complement byte.
    sign = f.is_signed() ? 1u << (packed ? 3 : 7) : 0u;
    return;
  }
  kind = f.is_float() ? Kind::Float : Kind::Book;
  if (f.is_float()) small = codec::SmallFloat(f.exponent_bits(), f.mantissa_bits());
  if (kind == Kind::Book) book = search_of(f.book());
  for (int code = 0; code < 256; ++code) values[code] = f.value_of(static_cast<std::uint8_t>(code));
}

}  // namespace nibble::cuda
