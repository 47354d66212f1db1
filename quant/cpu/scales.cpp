#include <algorithm>
#include <bit>

#include "quant/kernels.h"
#include "quant/scale_math.h"
#include "tensor/thread_pool.h"

namespace nibble::cpu {
namespace {

constexpr std::int64_t kTileGrain = 8192;  // tiles of one parallel chunk

// The largest of numbers that are not negative; NaN is the largest of all.
float largest_of(const float* values, std::int64_t n) {
  std::uint32_t most = 0;
  for (std::int64_t i = 0; i < n; ++i)
    most = std::max(most, std::bit_cast<std::uint32_t>(values[i]));
  return std::bit_cast<float>(most);
}

}  // namespace

void quant_scales(Tensor& scales, Tensor& zeros, Tensor& global, const Tensor& ranges,
                  const Tensor& minima, const QuantSpec& spec) {
  const std::int64_t n = ranges.numel();
  const float* range = ranges.data<float>();
  const float* minimum = spec.symmetric ? nullptr : minima.data<float>();
  float* zero = spec.symmetric ? nullptr : zeros.data<float>();
  const codec::StepRule rule(spec);
  const float least = rule.least(rule.relative ? largest_of(range, n) : 0.0f);
  const auto step_at = [&](std::int64_t i) {
    return rule.step(range[i], minimum ? minimum[i] : 0.0f, least);
  };
  float whole = 1;
  if (spec.scale == ScaleType::TwoLevel) {
    std::uint32_t most = 0;
    for (std::int64_t i = 0; i < n; ++i)
      most = std::max(most, std::bit_cast<std::uint32_t>(step_at(i)));
    whole = codec::global_scale(std::bit_cast<float>(most));
    global.data<float>()[0] = whole;
  }
  codec::with_scale_type(spec.scale, [&](auto form) {
    using Form = decltype(form);
    auto* stored = scales.data<typename Form::type>();
    parallel_for(n, kTileGrain, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) {
        stored[i] = Form::encode(step_at(i), whole);
        if (minimum) zero[i] = rule.zero(minimum[i], Form::decode(stored[i], whole));
      }
    });
  });
}

void quant_steps(Tensor& steps, const Tensor& scales, const Tensor& global, const QuantSpec& spec) {
  const float whole = global.defined() ? global.data<float>()[0] : 1.0f;
  float* step = steps.data<float>();
  codec::with_scale_type(spec.scale, [&](auto form) {
    using Form = decltype(form);
    const auto* stored = scales.data<typename Form::type>();
    parallel_for(steps.numel(), kTileGrain, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) step[i] = Form::decode(stored[i], whole);
    });
  });
}

}  // namespace nibble::cpu
