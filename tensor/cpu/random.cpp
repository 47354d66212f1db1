#include <cmath>
#include <numbers>

#include "tensor/cpu/draws.h"
#include "tensor/cpu/loops.h"
#include "tensor/kernels.h"

namespace nibble::cpu {
namespace {

// Calls f(i, words, count) for every Philox block: its words belong to elements [i, i + count).
template <class F>
void for_blocks(std::int64_t n, const RngKey& key, F f) {
  const std::uint32_t step = key.step_value();
  parallel_for(n, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; i += 4) {
      const auto block = static_cast<std::uint64_t>(i) / 4;
      const Philox p =
          philox4x32_10(static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                        key.site, step, key.seed);
      f(i, p.v, std::min<std::int64_t>(4, end - i));
    }
  });
}

constexpr std::int64_t kDrawBatch = 128;

}  // namespace

void random_uniform(Tensor& y, double low, double high, const RngKey& key) {
  float* out = y.data<float>();
  // Rounding to f32 must not reach `high`: the interval is half open.
  const auto lo = static_cast<float>(low), hi = static_cast<float>(high);
  const float last = high > low ? std::nextafter(hi, lo) : hi;
  for_blocks(y.numel(), key, [=](std::int64_t i, const auto& words, std::int64_t count) {
    for (std::int64_t j = 0; j < count; ++j) {
      const double u = uniform01(words[static_cast<std::size_t>(j)]);
      out[i + j] = std::min(static_cast<float>(std::fma(high - low, u, low)), last);
    }
  });
}

// Elements 2j and 2j + 1 share two words w0, w1 of block j / 2: with u = (w0 + 1) / 2^32 in (0, 1]
// and v = w1 / 2^32, they are √(−2 ln u) times cos 2πv and sin 2πv. An odd tail drops the sine.
void random_normal(Tensor& y, double mean, double stddev, const RngKey& key) {
  float* out = y.data<float>();
  constexpr double kUnit = 1.0 / 4294967296.0;
  for_blocks(y.numel(), key, [=](std::int64_t i, const auto& words, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j += 2) {
      const double w0 = words[static_cast<std::size_t>(j)];
      const double w1 = words[static_cast<std::size_t>(j + 1)];
      const double radius = std::sqrt(-2.0 * std::log((w0 + 1.0) * kUnit));
      const double angle = 2.0 * std::numbers::pi * (w1 * kUnit);
      const double z0 = radius * std::cos(angle), z1 = radius * std::sin(angle);
      out[i + j] = static_cast<float>(std::fma(stddev, z0, mean));
      if (j + 1 < count) out[i + j + 1] = static_cast<float>(std::fma(stddev, z1, mean));
    }
  });
}

// Element e keeps when draw e & 7 of block e >> 3 (Draws16) is at least the threshold. Dropped ones
// are +0 even where x is not finite.
void dropout(Tensor& y, const Tensor& x, double p, const RngKey& key) {
  const auto threshold = static_cast<float>(std::lround(p * 65536.0));  // draws are exact in f32
  const std::uint32_t step = key.step_value();
  NIBBLE_FLOAT_SWITCH(y.dtype(), "dropout", T, {
    using C = compute_t<T>;
    const C scale = p < 1 ? static_cast<C>(1.0 / (1.0 - p)) : C(0);
    T* out = y.data<T>();
    const T* in = x.data<T>();
    parallel_for(y.numel(), kGrain, [=](std::int64_t begin, std::int64_t end) {
      std::array<std::uint16_t, kDrawBatch> draw;
      for (std::int64_t i = begin; i < end; i += kDrawBatch) {
        draw_batch(key, step, i / 8, draw);
        const std::int64_t n = std::min<std::int64_t>(kDrawBatch, end - i);
        map_range(
            out + i, 0, n, [=](C v, float d) { return d >= threshold ? v * scale : C(0); }, in + i,
            draw.data());
      }
    });
  });
}

}  // namespace nibble::cpu
