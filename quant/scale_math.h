// From what a tile holds to its stored scale and zero point: scalar code of both devices.
#pragma once

#include "quant/codec.h"
#include "quant/spec.h"

namespace nibble::codec {

// ---- ranges --------------------------------------------------------------------------------

// What a spec makes of the numbers found in a tile. Results that are NaN are one_nan's.
struct RangeRule {
  Calibration::Kind kind;
  float value;
  bool bf16;

  explicit RangeRule(const QuantSpec& spec)
      : kind(spec.calibration.kind),
        value(spec.calibration.value),
        bf16(spec.arithmetic == Arithmetic::BF16) {}
  NIBBLE_HD float rounded(float x) const { return bf16 ? round_bf16(x) : x; }

  // From the largest magnitude; for Mse that magnitude itself, which the search starts from.
  NIBBLE_HD float of_largest(float most) const {
    if (kind == Calibration::Kind::Constant && is_finite(most)) return value;
    return one_nan(kind == Calibration::Kind::AbsMax ? mul(value, rounded(most)) : most);
  }
  // Delayed scaling: past steps of zeros leave the step at 1. `most_value`: the format's.
  NIBBLE_HD float of_history(float most, float most_value) const {
    return most == 0.0f ? most_value : of_largest(most);
  }
  NIBBLE_HD float of_mean(double sum, std::int64_t count) const {
    return one_nan(mul(value, static_cast<float>(sum / static_cast<double>(count))));
  }
  // Zero points: the range, and the least value, which counts as found.
  NIBBLE_HD float minimum(float low) const { return one_nan(mul(value, rounded(low))); }
  NIBBLE_HD float of_extremes(float low, float high) const {
    return one_nan(rounded(sub(mul(value, rounded(high)), mul(value, rounded(low)))));
  }
};
// Candidate c of n of the Mse search.
NIBBLE_HD inline float mse_candidate(int c, int n, float most) {
  return mul(div(static_cast<float>(c), static_cast<float>(n)), most);
}

// ---- steps ---------------------------------------------------------------------------------

struct StepRule {
  float floor, parts, qmin;
  bool relative, bf16, symmetric;

  explicit StepRule(const QuantSpec& spec)
      // The study's asymmetric signed step leaves one code unused; unsigned uses the whole range.
      : floor(spec.floor.value),
        parts(!spec.symmetric && spec.format.is_signed() ? 2 * spec.format.max_value()
                                                         : spec.format.max_value()),
        qmin(spec.format.is_integer() ? static_cast<float>(spec.format.qmin()) : 0),
        relative(spec.floor.relative),
        bf16(spec.arithmetic == Arithmetic::BF16),
        symmetric(spec.symmetric) {}

  // The floor that holds, given the tensor's largest range.
  NIBBLE_HD float least(float largest) const {
    const float y = relative ? mul(floor, largest) : floor;
    return bf16 ? round_bf16(y) : y;
  }
  NIBBLE_HD float step(float range, float minimum, float least) const {
    const float y = div(range < least ? least : range, parts);
    // A constant tile without a floor keeps its value: one step, a zero point of ±1.
    if (y == 0 && !symmetric) return fabsf(minimum);
    return one_nan(bf16 ? round_bf16(y) : y);
  }
  // rne(min / step − Qn)
  NIBBLE_HD float zero(float minimum, float step) const {
    if (step == 0) return 0;
    const float y = div(minimum, step);
    return one_nan(rne(bf16 ? round_bf16(sub(round_bf16(y), qmin)) : sub(y, qmin)));
  }
};

// ---- stored forms --------------------------------------------------------------------------

// Finite steps stay finite in every type.
NIBBLE_HD inline bfloat16 bf16_step(float step) {
  const bfloat16 b(step);
  return b.bits == 0x7f80u && is_finite(step) ? bfloat16::from_bits(0x7f7f) : b;
}
NIBBLE_HD inline std::uint8_t e4m3_step(float step, float global) {
  if (!is_finite(step) || !is_finite(global)) return 0x7f;
  return global == 0 ? std::uint8_t{0} : float8_e4m3(div(step, global)).bits;
}
NIBBLE_HD inline float power_step(float step) {
  return step > 0 && is_finite(step) ? power_of_two_above(step) : step;
}
// What TwoLevel's e4m3 scales are relative to, from the largest step.
NIBBLE_HD inline float global_scale(float largest) {
  return one_nan(div(largest, float8_e4m3::kMax));
}

// Stored forms of a step.
template <ScaleType kType>
struct Stored {
  using type = float;
  NIBBLE_HD static float encode(float step, float) { return step; }
  NIBBLE_HD static float decode(float stored, float) { return stored; }
};
template <>
struct Stored<ScaleType::BF16> {
  using type = bfloat16;
  NIBBLE_HD static bfloat16 encode(float step, float) { return bf16_step(step); }
  NIBBLE_HD static float decode(bfloat16 stored, float) { return static_cast<float>(stored); }
};
template <>
struct Stored<ScaleType::PowerOfTwo> {
  using type = float;
  NIBBLE_HD static float encode(float step, float) { return power_step(step); }
  NIBBLE_HD static float decode(float stored, float) { return stored; }
};
template <>
struct Stored<ScaleType::E8M0> {
  using type = std::uint8_t;
  NIBBLE_HD static std::uint8_t encode(float step, float) { return encode_e8m0(power_step(step)); }
  NIBBLE_HD static float decode(std::uint8_t stored, float) { return decode_e8m0(stored); }
};
template <>
struct Stored<ScaleType::TwoLevel> {
  using type = std::uint8_t;
  NIBBLE_HD static std::uint8_t encode(float step, float global) { return e4m3_step(step, global); }
  NIBBLE_HD static float decode(std::uint8_t stored, float global) {
    return one_nan(mul(float8_e4m3::decode(stored), global));
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

}  // namespace nibble::codec
