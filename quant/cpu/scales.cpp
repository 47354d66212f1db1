#include "quant/scales.h"

#include <bit>
#include <cmath>

#include "quant/codec.h"
#include "quant/kernels.h"

namespace nibble::cpu {
namespace {

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

void store(Tensor& scales, std::int64_t i, float step, float global, ScaleType type) {
  switch (type) {
    case ScaleType::F32: scales.data<float>()[i] = step; break;
    case ScaleType::BF16: scales.data<bfloat16>()[i] = bf16_step(step); break;
    case ScaleType::PowerOfTwo: scales.data<float>()[i] = power_step(step); break;
    case ScaleType::E8M0:
      scales.data<std::uint8_t>()[i] = codec::encode_e8m0(power_step(step));
      break;
    case ScaleType::TwoLevel: scales.data<std::uint8_t>()[i] = e4m3_step(step, global); break;
  }
}

float load(const Tensor& scales, std::int64_t i, float global, ScaleType type) {
  switch (type) {
    case ScaleType::BF16: return static_cast<float>(scales.data<bfloat16>()[i]);
    case ScaleType::E8M0: return codec::decode_e8m0(scales.data<std::uint8_t>()[i]);
    case ScaleType::TwoLevel:
      return codec::mul(float8_e4m3::decode(scales.data<std::uint8_t>()[i]), global);
    case ScaleType::F32:
    case ScaleType::PowerOfTwo: break;
  }
  return scales.data<float>()[i];
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
  const float floor =
      spec.floor.relative ? spec.floor.value * largest_of(range, n) : spec.floor.value;
  std::vector<float> steps(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i)
    steps[static_cast<std::size_t>(i)] = step_of(range[i], floor, minimum ? minimum[i] : 0, spec);
  float whole = 1;
  if (spec.scale == ScaleType::TwoLevel) {
    whole = codec::div(largest_of(steps.data(), n), float8_e4m3::kMax);
    global.data<float>()[0] = whole;
  }
  for (std::int64_t i = 0; i < n; ++i) {
    store(scales, i, steps[static_cast<std::size_t>(i)], whole, spec.scale);
    if (minimum)
      zeros.data<float>()[i] = zero_of(minimum[i], load(scales, i, whole, spec.scale), spec);
  }
}

void quant_steps(Tensor& steps, const Tensor& scales, const Tensor& global, const QuantSpec& spec) {
  const float whole = global.defined() ? global.data<float>()[0] : 1.0f;
  for (std::int64_t i = 0; i < steps.numel(); ++i)
    steps.data<float>()[i] = load(scales, i, whole, spec.scale);
}

}  // namespace nibble::cpu
