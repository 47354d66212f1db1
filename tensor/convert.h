// Conversion of one element between any two dtypes, on both devices.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "tensor/dtype.h"

namespace nibble {

// Saturates to the range of an integer type, where NaN becomes 0; f64 to a narrower float goes
// through f32.
template <class To, class From>
NIBBLE_HD To converted(From x) {
  if constexpr (std::is_integral_v<To>) {
    const auto v = static_cast<double>(x);
    constexpr double kLow = std::numeric_limits<To>::min(), kHigh = std::numeric_limits<To>::max();
    return static_cast<To>(v >= kHigh ? kHigh : v > kLow ? v : std::isnan(v) ? 0.0 : kLow);
  } else if constexpr (std::is_same_v<To, double>) {
    return static_cast<double>(x);
  } else {
    return static_cast<To>(static_cast<float>(x));
  }
}

// Calls f(T{}) with the element type: fp8 payloads are values here, unlike Tensor::data(), which
// hands out their bytes.
template <class F>
void with_element_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::F64: return f(double{});
    case DType::F32: return f(float{});
    case DType::BF16: return f(bfloat16{});
    case DType::I32: return f(std::int32_t{});
    case DType::U8: return f(std::uint8_t{});
    case DType::I8: return f(std::int8_t{});
    case DType::E4M3: return f(float8_e4m3{});
    case DType::E5M2: return f(float8_e5m2{});
    case DType::U4x2: return;  // packed codes have no numeric value
  }
}

}  // namespace nibble
