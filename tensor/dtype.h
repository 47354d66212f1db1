// Element types. Payloads of quantized tensors are I8, U8, E4M3, E5M2 or U4x2 (two codes a byte).
#pragma once

#include <cstdint>
#include <string_view>

#include "tensor/check.h"
#include "tensor/float_types.h"

namespace nibble {

// F64: CPU only, for gradient checks.
enum class DType : std::uint8_t { F64, F32, BF16, I32, U8, I8, E4M3, E5M2, U4x2 };

std::string_view to_string(DType dtype);
// Inverse of to_string; throws Error("dtype") naming the accepted words.
DType parse_dtype(std::string_view name);

// Bytes of `count` elements (U4x2 packs two a byte; `count` must then be even).
constexpr std::int64_t bytes_of(DType dtype, std::int64_t count) {
  switch (dtype) {
    case DType::F64: return 8 * count;
    case DType::F32:
    case DType::I32: return 4 * count;
    case DType::BF16: return 2 * count;
    case DType::U4x2: return (count + 1) / 2;
    default: return count;
  }
}
constexpr bool is_float(DType d) { return d == DType::F64 || d == DType::F32 || d == DType::BF16; }

template <class T>
struct dtype_of_impl;
template <>
struct dtype_of_impl<double> {
  static constexpr DType value = DType::F64;
};
template <>
struct dtype_of_impl<float> {
  static constexpr DType value = DType::F32;
};
template <>
struct dtype_of_impl<bfloat16> {
  static constexpr DType value = DType::BF16;
};
template <>
struct dtype_of_impl<std::int32_t> {
  static constexpr DType value = DType::I32;
};
template <>
struct dtype_of_impl<std::uint8_t> {
  static constexpr DType value = DType::U8;
};
template <>
struct dtype_of_impl<std::int8_t> {
  static constexpr DType value = DType::I8;
};
template <class T>
inline constexpr DType dtype_of = dtype_of_impl<T>::value;

// The type a kernel computes in: f64 stays, everything else is IEEE f32.
template <class T>
struct compute_type {
  using type = float;
};
template <>
struct compute_type<double> {
  using type = double;
};
template <class T>
using compute_t = typename compute_type<T>::type;

}  // namespace nibble

template <>
struct fmt::formatter<nibble::DType> : fmt::formatter<std::string_view> {
  auto format(nibble::DType d, format_context& ctx) const {
    return fmt::formatter<std::string_view>::format(nibble::to_string(d), ctx);
  }
};

// Runs the statement with `T` bound to the C++ type of a float dtype; throws for others.
#define NIBBLE_FLOAT_SWITCH(dtype, op, T, ...)                                     \
  switch (dtype) {                                                                 \
    case ::nibble::DType::F64: {                                                   \
      using T = double;                                                            \
      __VA_ARGS__;                                                                 \
      break;                                                                       \
    }                                                                              \
    case ::nibble::DType::F32: {                                                   \
      using T = float;                                                             \
      __VA_ARGS__;                                                                 \
      break;                                                                       \
    }                                                                              \
    case ::nibble::DType::BF16: {                                                  \
      using T = ::nibble::bfloat16;                                                \
      __VA_ARGS__;                                                                 \
      break;                                                                       \
    }                                                                              \
    default: ::nibble::fail(op, "got dtype {}, expected f64, f32 or bf16", dtype); \
  }
