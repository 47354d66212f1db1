// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC'11), indexed by logical element,
// so that the same bits come out on every device, launch shape, shard and recomputation.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "tensor/float_types.h"

namespace nibble {

struct Philox {
  std::array<std::uint32_t, 4> v;
};

NIBBLE_HD constexpr Philox philox4x32_10(std::uint32_t c0, std::uint32_t c1, std::uint32_t c2,
                                         std::uint32_t c3, std::uint64_t key) {
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = 0xD2511F53ull * c0, b = 0xCD9E8D57ull * c2;
    const auto b_hi = static_cast<std::uint32_t>(b >> 32),
               a_hi = static_cast<std::uint32_t>(a >> 32);
    c0 = b_hi ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(b);
    c2 = a_hi ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(a);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}
// The known-answer vectors that the authors publish with random123.
static_assert(philox4x32_10(0, 0, 0, 0, 0).v ==
              std::array{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
static_assert(philox4x32_10(~0u, ~0u, ~0u, ~0u, ~0ull).v ==
              std::array{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
static_assert(
    philox4x32_10(0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u, 0x299f31d0a4093822ull).v ==
    std::array{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u});

// FNV-1a folded to 32 bits: the site of (module path, purpose, micro-step).
constexpr std::uint32_t rng_site(std::string_view path, std::string_view purpose,
                                 std::uint32_t micro_step = 0) {
  std::uint64_t h = 14695981039346656037ull;
  const auto mix = [&h](unsigned char c) { h = (h ^ c) * 1099511628211ull; };
  for (const char c : path) mix(static_cast<unsigned char>(c));
  mix(0xff);
  for (const char c : purpose) mix(static_cast<unsigned char>(c));
  for (int i = 0; i < 4; ++i) mix(static_cast<unsigned char>(micro_step >> (8 * i)));
  return static_cast<std::uint32_t>(h ^ (h >> 32));
}

// A random stream: seed, site, and the training step, which kernels read where it lives (host or
// device) at launch, so that a replayed graph advances. A null step reads as 0.
struct RngKey {
  std::uint64_t seed = 0;
  std::uint32_t site = 0;
  const std::uint32_t* step = nullptr;

  NIBBLE_HD std::uint32_t step_value() const { return step ? *step : 0; }
};

// 16-bit draw number `element`, eight to a Philox call (design.md, amendment 10).
class Draws16 {
 public:
  NIBBLE_HD Draws16(const RngKey& key, std::uint32_t step)
      : key_(key.seed), site_(key.site), step_(step) {}
  // The eight draws of elements [8·block, 8·block + 8).
  NIBBLE_HD Philox block(std::uint64_t index) const {
    return philox4x32_10(static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                         site_, step_, key_);
  }
  NIBBLE_HD static std::uint32_t pick(const Philox& p, unsigned lane) {
    return (p.v[lane >> 1] >> (16 * (lane & 1))) & 0xffffu;
  }
  NIBBLE_HD std::uint32_t operator()(std::uint64_t element) const {
    return pick(block(element >> 3), static_cast<unsigned>(element & 7));
  }

 private:
  std::uint64_t key_;
  std::uint32_t site_, step_;
};

// A 16-bit draw as u - 1/2 with u in (0, 1): the noise that stochastic rounding adds.
NIBBLE_HD constexpr float centred_noise(std::uint32_t draw16) {
  return (static_cast<float>(draw16) + 0.5f) * (1.0f / 65536.0f) - 0.5f;
}
// A 32-bit draw as a uniform number in [0, 1) on a grid of 2^-24.
NIBBLE_HD constexpr float uniform01(std::uint32_t draw32) {
  return static_cast<float>(draw32 >> 8) * (1.0f / 16777216.0f);
}

}  // namespace nibble
