#include "quant/cpu/coder.h"

#include <bit>
#include <cstring>

namespace nibble::cpu {
namespace {

// Lanes of the vectorized Philox: one register of 32-bit words.
constexpr int kLanes = 8;

// Eight consecutive Philox blocks; out receives their words block by block.
void philox_blocks(std::uint64_t first, std::uint32_t site, std::uint32_t step, std::uint64_t key,
                   std::uint32_t* out) {
  std::uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    const std::uint64_t index = first + static_cast<std::uint64_t>(l);
    c0[l] = static_cast<std::uint32_t>(index);
    c1[l] = static_cast<std::uint32_t>(index >> 32);
    c2[l] = site;
    c3[l] = step;
  }
  auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int l = 0; l < kLanes; ++l) {
      const std::uint64_t a = 0xD2511F53ull * c0[l], b = 0xCD9E8D57ull * c2[l];
      const auto b_hi = static_cast<std::uint32_t>(b >> 32),
                 a_hi = static_cast<std::uint32_t>(a >> 32);
      c0[l] = b_hi ^ c1[l] ^ k0;
      c2[l] = a_hi ^ c3[l] ^ k1;
      c1[l] = static_cast<std::uint32_t>(b);
      c3[l] = static_cast<std::uint32_t>(a);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int l = 0; l < kLanes; ++l) {
    out[4 * l] = c0[l];
    out[4 * l + 1] = c1[l];
    out[4 * l + 2] = c2[l];
    out[4 * l + 3] = c3[l];
  }
}

}  // namespace

Coder::Coder(const QuantSpec& spec)
    : format_(spec.format), stochastic_(spec.rounding == Rounding::Stochastic) {
  if (format_.is_integer()) {
    low_ = static_cast<float>(format_.qmin());
    high_ = static_cast<float>(format_.qmax());
  }
  if (format_.is_float())
    small_ = codec::SmallFloat(format_.exponent_bits(), format_.mantissa_bits());
  for (std::size_t code = 0; code < value_of_.size(); ++code)
    value_of_[code] = codec::decode(format_, static_cast<std::uint8_t>(code));
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
  const auto size = static_cast<std::uint32_t>(book.values.size());
  for (std::int64_t j = 0; j < n; ++j) {
    std::uint32_t code =
        codec::encode_book(book.bounds.data(), size, y[j], book.first[codec::book_bucket(y[j])]);
    if (stochastic_) code = codec::round_book(book.values.data(), size, y[j], code, draws[j]);
    codes[j] = static_cast<std::uint8_t>(code);
  }
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

const std::uint16_t* fill_draws(const RngKey& key, std::uint64_t first, std::int64_t n,
                                std::uint16_t* out) {
  // Draws16::pick takes the low half of a word first, as memory order does here.
  static_assert(std::endian::native == std::endian::little);
  const std::uint64_t block = first >> 3;
  const auto blocks =
      static_cast<std::int64_t>(((first + static_cast<std::uint64_t>(n) + 7) >> 3) - block);
  const std::uint32_t step = key.step_value();
  std::uint32_t words[4 * kLanes];
  for (std::int64_t b = 0; b < blocks; b += kLanes) {
    philox_blocks(block + static_cast<std::uint64_t>(b), key.site, step, key.seed, words);
    const std::int64_t take = blocks - b < kLanes ? blocks - b : kLanes;
    std::memcpy(out + 8 * b, words, static_cast<std::size_t>(take) * 16);
  }
  return out + (first & 7);
}

}  // namespace nibble::cpu
