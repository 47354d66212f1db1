#include "optim/stored.h"

#include <bit>

#include "quant/qtensor.h"

namespace nibble {
namespace {

bool is_f32_or_bf16(DType dtype) { return dtype == DType::F32 || dtype == DType::BF16; }

// A byte a code and a scale a row, which one block finds.
bool are_rows_of_bytes(const QuantSpec& s) {
  return s.format.is_integer() && !s.packed && s.tile == kPerRow && s.row_splits == 1 &&
         s.col_splits == 1 && s.symmetric && s.scale == ScaleType::F32 && !s.floor.relative &&
         s.arithmetic == Arithmetic::F32 && s.calibration.kind == Calibration::Kind::AbsMax;
}

// Groups that lanes of a warp hold, eight elements each, and steps that need no other group.
std::string spec_refusal(const QuantSpec& s) {
  const auto group = static_cast<std::uint64_t>(s.tile.cols);
  if (s.tile.rows != 1 || group < 32 || group > 512 || !std::has_single_bit(group) ||
      s.row_splits != 1 || s.col_splits != 1)
    return "tiles other than groups of 32, 64, 128, 256 or 512 along rows";
  if (!s.symmetric) return "zero points";
  if (s.scale == ScaleType::TwoLevel || s.floor.relative) return "scales that know each other";
  if (s.arithmetic != Arithmetic::F32) return "bf16 arithmetic";
  if (s.calibration.kind != Calibration::Kind::AbsMax &&
      s.calibration.kind != Calibration::Kind::Constant)
    return "calibration by sums";
  return "";
}

}  // namespace

std::string stored_update_refusal(const StoredUpdate& u) {
  if (u.weight_spec && !are_rows_of_bytes(*u.weight_spec))
    return to_string(*u.weight_spec) + " weights: codes other than integers with a scale a row";
  if ((!u.weight_spec && !is_f32_or_bf16(u.weight.dtype())) ||
      (u.gradient.defined() && !is_f32_or_bf16(u.gradient.dtype())))
    return "weights or gradients other than f32 and bf16";
  for (const StoredState& s : u.states)
    if (s.spec)
      if (const std::string why = spec_refusal(*s.spec); !why.empty())
        return to_string(*s.spec) + ": " + why;
  return "";
}

}  // namespace nibble
