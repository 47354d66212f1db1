#include "quant/cpu/coder.h"

#include <algorithm>
#include <limits>

namespace nibble::cpu {
Coder::Coder(const QuantSpec& spec)
    : format_(spec.format), stochastic_(spec.rounding == Rounding::Stochastic) {
  if (format_.is_integer()) {
    low_ = static_cast<float>(format_.qmin());
    high_ = static_cast<float>(format_.qmax());
  }
  if (format_.is_float())
    small_ = codec::SmallFloat(format_.exponent_bits(), format_.mantissa_bits());
  for (std::size_t code = 0; code < value_of_.size(); ++code)
    value_of_[code] = format_.value_of(static_cast<std::uint8_t>(code));
  if (format_.kind() != Format::Kind::CodeBook) return;
  const CodeBook& book = format_.book();
  bound_of_.fill(std::numeric_limits<float>::infinity());
  std::ranges::copy(book.bounds, bound_of_.begin());
  moves_ = book.most_moves;
}

void Coder::encode(const float* y, std::int64_t n, const std::uint16_t* draws,
                   std::uint8_t* codes) const {
  switch (format_.kind()) {
    case Format::Kind::Int: {
      const float low = low_, high = high_;
      if (stochastic_)
        for (std::int64_t j = 0; j < n; ++j)
          codes[j] = static_cast<std::uint8_t>(codec::encode_integer(y[j], low, high, draws[j]));
      else
        for (std::int64_t j = 0; j < n; ++j)
          codes[j] = static_cast<std::uint8_t>(codec::encode_integer(y[j], low, high));
      return;
    }
    case Format::Kind::Float: {
      const codec::SmallFloat f = small_;
      if (stochastic_)
        for (std::int64_t j = 0; j < n; ++j)
          codes[j] = static_cast<std::uint8_t>(codec::encode_float(f, y[j], draws[j]));
      else
        for (std::int64_t j = 0; j < n; ++j)
          codes[j] = static_cast<std::uint8_t>(codec::encode_float(f, y[j]));
      return;
    }
    case Format::Kind::CodeBook: break;
  }
  const CodeBook& book = format_.book();
  const std::uint8_t* first = book.first.data();
  for (std::int64_t j = 0; j < n; ++j) {
    // No branch on data: noise would make every other prediction fail.
    std::uint32_t code = first[codec::book_bucket(y[j])];
    for (int move = 0; move < moves_; ++move) code += y[j] > bound_of_[code] ? 1u : 0u;
    codes[j] = static_cast<std::uint8_t>(code);
  }
  if (!stochastic_) return;
  const auto size = static_cast<std::uint32_t>(book.values.size());
  for (std::int64_t j = 0; j < n; ++j)
    codes[j] = static_cast<std::uint8_t>(
        codec::round_book(value_of_.data(), size, y[j], codes[j], draws[j]));
}

void Coder::round(const float* y, std::int64_t n, const std::uint16_t* draws, float* values) const {
  if (format_.is_integer()) {
    // Subtracting the constant again leaves the rounded number without a trip through bytes.
    const float low = low_, high = high_;
    if (stochastic_)
      for (std::int64_t j = 0; j < n; ++j)
        values[j] = codec::clamp(y[j] + centred_noise(draws[j]), low, high) + codec::kRoundMagic -
                    codec::kRoundMagic;
    else
      for (std::int64_t j = 0; j < n; ++j)
        values[j] = codec::clamp(y[j], low, high) + codec::kRoundMagic - codec::kRoundMagic;
    return;
  }
  constexpr std::int64_t kRun = 256;
  std::uint8_t codes[kRun];
  for (std::int64_t j = 0; j < n; j += kRun) {
    const std::int64_t m = n - j < kRun ? n - j : kRun;
    encode(y + j, m, draws ? draws + j : nullptr, codes);
    decode(codes, m, values + j);
  }
}

void Coder::decode(const std::uint8_t* codes, std::int64_t n, float* values) const {
  if (format_.is_integer()) {
    if (format_.is_signed())
      for (std::int64_t j = 0; j < n; ++j)
        values[j] = static_cast<float>(static_cast<std::int8_t>(codes[j]));
    else
      for (std::int64_t j = 0; j < n; ++j) values[j] = static_cast<float>(codes[j]);
    return;
  }
  for (std::int64_t j = 0; j < n; ++j) values[j] = value_of_[codes[j]];
}

}  // namespace nibble::cpu
