#include <algorithm>
#include <cmath>

#include "tensor/cpu/draws.h"
#include "tensor/cpu/loops.h"
#include "tensor/kernels.h"
#include "tensor/normal_math.h"

namespace nibble::cpu {
namespace {

constexpr std::size_t kBlocks = 32;
constexpr std::int64_t kDrawBatch = 128;  // elements: 32-bit draws of kBlocks blocks

// out[i] for i < n: f(words, values) turns the words of a batch of blocks into its values.
template <class F>
void for_batches(float* out, std::int64_t n, const RngKey& key, F f) {
  const std::uint32_t step = key.step_value();
  parallel_for(n, kGrain, [=](std::int64_t begin, std::int64_t end) {
    BlockWords<kBlocks> words;
    std::array<float, kDrawBatch> values;
    for (std::int64_t i = begin; i < end; i += kDrawBatch) {
      philox_batch(key, step, i / 4, words);
      f(words, values);
      std::copy_n(values.data(), std::min(kDrawBatch, end - i), out + i);
    }
  });
}

}  // namespace

void random_uniform(Tensor& y, double low, double high, const RngKey& key) {
  // Rounding to f32 must not reach `high`: the interval is half open.
  const auto lo = static_cast<float>(low), hi = static_cast<float>(high);
  const float last = high > low ? std::nextafter(hi, lo) : hi;
  for_batches(y.data<float>(), y.numel(), key, [=](const auto& words, auto& values) {
    for (std::size_t b = 0; b < kBlocks; ++b)
      for (std::size_t w = 0; w < 4; ++w) {
        const double u = uniform01(words[w][b]);
        values[4 * b + w] = std::min(static_cast<float>(std::fma(high - low, u, low)), last);
      }
  });
}

// Elements 2j and 2j + 1 are the Box-Muller pair of words 2j % 4 and 2j % 4 + 1 of block j / 2.
void random_normal(Tensor& y, double mean, double stddev, const RngKey& key) {
  for_batches(y.data<float>(), y.numel(), key, [=](const auto& words, auto& values) {
    for (std::size_t half = 0; half < 4; half += 2) {
      std::array<float, kBlocks> first, second;
      for (std::size_t b = 0; b < kBlocks; ++b) {
        const scalar::NormalPair z = scalar::box_muller(words[half][b], words[half + 1][b]);
        first[b] = static_cast<float>(std::fma(stddev, z.first, mean));
        second[b] = static_cast<float>(std::fma(stddev, z.second, mean));
      }
      for (std::size_t b = 0; b < kBlocks; ++b) {
        values[4 * b + half] = first[b];
        values[4 * b + half + 1] = second[b];
      }
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
