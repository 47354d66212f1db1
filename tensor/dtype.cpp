#include "tensor/dtype.h"

#include <array>
#include <utility>

namespace nibble {
namespace {
constexpr std::array<std::pair<DType, std::string_view>, 9> kNames{{{DType::F64, "f64"},
                                                                    {DType::F32, "f32"},
                                                                    {DType::BF16, "bf16"},
                                                                    {DType::I32, "i32"},
                                                                    {DType::U8, "u8"},
                                                                    {DType::I8, "i8"},
                                                                    {DType::E4M3, "e4m3"},
                                                                    {DType::E5M2, "e5m2"},
                                                                    {DType::U4x2, "u4x2"}}};
}  // namespace

std::string_view to_string(DType dtype) { return kNames[static_cast<std::size_t>(dtype)].second; }

DType parse_dtype(std::string_view name) {
  for (const auto& [dtype, text] : kNames)
    if (text == name) return dtype;
  fail("dtype", "unknown name: got '{}', expected f64, f32, bf16, i32, u8, i8, e4m3, e5m2 or u4x2",
       name);
}

}  // namespace nibble
