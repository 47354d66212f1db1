#include "quant/scales.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "quant/codec.h"
#include "quant/kernels.h"
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

float step_of(float range, float floor, float minimum, const QuantSpec& spec) {
  const bool bf16 = spec.arithmetic == Arithmetic::BF16;
  const Format& f = spec.format;
  // The study's asymmetric signed step leaves one code unused; unsigned uses the whole range.
  const float parts = !spec.symmetric && f.is_signed() ? 2 * f.max_value() : f.max_value();
  const float least = bf16 ? codec::round_bf16(floor) : floor;
  const float step = codec::div(range < least ? least : range, parts);
  // A constant tile without a floor keeps its value: one step, a zero point of ±1.
  if (step == 0 && !spec.symmetric) return std::fabs(minimum);
  return bf16 ? codec::round_bf16(step) : step;
}

// Finite steps stay finite in every type.
bfloat16 bf16_step(float step) {
  const bfloat16 b(step);
  return b.bits == 0x7f80u && std::isfinite(step) ? bfloat16::from_bits(0x7f7f) : b;
}
std::uint8_t e4m3_step(float step, float global) {
  if (!std::isfinite(step) || !std::isfinite(global)) return 0x7f;
  return global == 0 ? std::uint8_t{0} : float8_e4m3(codec::div(step, global)).bits;
}
float power_step(float step) {
  return step > 0 && std::isfinite(step) ? codec::power_of_two_above(step) : step;
}

// Stored forms of a step; T is the stored type.
template <ScaleType kType>
struct Stored {
  using type = float;
  static float encode(float step, float) { return step; }
  static float decode(float stored, float) { return stored; }
};
template <>
struct Stored<ScaleType::BF16> {
  using type = bfloat16;
  static bfloat16 encode(float step, float) { return bf16_step(step); }
  static float decode(bfloat16 stored, float) { return static_cast<float>(stored); }
};
template <>
struct Stored<ScaleType::PowerOfTwo> {
  using type = float;
  static float encode(float step, float) { return power_step(step); }
  static float decode(float stored, float) { return stored; }
};
template <>
struct Stored<ScaleType::E8M0> {
  using type = std::uint8_t;
  static std::uint8_t encode(float step, float) { return codec::encode_e8m0(power_step(step)); }
  static float decode(std::uint8_t stored, float) { return codec::decode_e8m0(stored); }
};
template <>
struct Stored<ScaleType::TwoLevel> {
  using type = std::uint8_t;
  static std::uint8_t encode(float step, float global) { return e4m3_step(step, global); }
  static float decode(std::uint8_t stored, float global) {
    return codec::mul(float8_e4m3::decode(stored), global);
  }
};

// Calls fn(Stored<type>{}).
template <class F>
void with_scale_type(ScaleType type, F&& fn) {
  switch (type) {
    case ScaleType::F32: return fn(Stored<ScaleType::F32>{});
    case ScaleType::BF16: return fn(Stored<ScaleType::BF16>{});
    case ScaleType::PowerOfTwo: return fn(Stored<ScaleType::PowerOfTwo>{});
    case ScaleType::E8M0: return fn(Stored<ScaleType::E8M0>{});
    case ScaleType::TwoLevel: return fn(Stored<ScaleType::TwoLevel>{});
  }
}

// rne(min / step − Qn)
float zero_of(float minimum, float step, const QuantSpec& spec) {
  if (step == 0) return 0;
  const auto qmin = static_cast<float>(spec.format.qmin());
  if (spec.arithmetic == Arithmetic::BF16)
    return codec::rne(codec::round_bf16(codec::round_bf16(minimum / step) - qmin));
  return codec::rne(codec::sub(codec::div(minimum, step), qmin));
}

}  // namespace

void quant_scales(Tensor& scales, Tensor& zeros, Tensor& global, const Tensor& ranges,
                  const Tensor& minima, const QuantSpec& spec) {
  const std::int64_t n = ranges.numel();
  const float* range = ranges.data<float>();
  const float* minimum = spec.symmetric ? nullptr : minima.data<float>();
  float* zero = spec.symmetric ? nullptr : zeros.data<float>();
  const float floor =
      spec.floor.relative ? spec.floor.value * largest_of(range, n) : spec.floor.value;
  const auto step_at = [&](std::int64_t i) {
    return step_of(range[i], floor, minimum ? minimum[i] : 0.0f, spec);
  };
  float whole = 1;
  if (spec.scale == ScaleType::TwoLevel) {
    std::uint32_t most = 0;
    for (std::int64_t i = 0; i < n; ++i)
      most = std::max(most, std::bit_cast<std::uint32_t>(step_at(i)));
    whole = codec::div(std::bit_cast<float>(most), float8_e4m3::kMax);
    global.data<float>()[0] = whole;
  }
  with_scale_type(spec.scale, [&](auto form) {
    using Form = decltype(form);
    auto* stored = scales.data<typename Form::type>();
    parallel_for(n, kTileGrain, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) {
        stored[i] = Form::encode(step_at(i), whole);
        if (minimum) zero[i] = zero_of(minimum[i], Form::decode(stored[i], whole), spec);
      }
    });
  });
}

void quant_steps(Tensor& steps, const Tensor& scales, const Tensor& global, const QuantSpec& spec) {
  const float whole = global.defined() ? global.data<float>()[0] : 1.0f;
  float* step = steps.data<float>();
  with_scale_type(spec.scale, [&](auto form) {
    using Form = decltype(form);
    const auto* stored = scales.data<typename Form::type>();
    parallel_for(steps.numel(), kTileGrain, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) step[i] = Form::decode(stored[i], whole);
    });
  });
}

}  // namespace nibble::cpu
