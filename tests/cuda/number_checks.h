// Inputs of every kind of number, and bit comparison that lets NaN be any NaN: arithmetic on a GPU
// returns one fixed NaN, on x86 that of an operand.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "tests/cuda/lockstep.h"

namespace nibble::testing {

// n floats of random bits (every exponent, subnormals, NaN), with the seams of the formats mixed
// in.
inline Tensor any_floats(const Shape& shape, std::uint32_t site = 1) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const float seams[] = {0.0f,    -0.0f,    1.0f,   -1.0f,   0.5f,    1.5f,   2.5f,     127.5f,
                         128.0f,  -128.5f,  255.5f, 256.0f,  448.0f,  464.0f, 57344.0f, 65536.0f,
                         1e-45f,  -1e-40f,  1e38f,  3.4e38f, kInf,    -kInf,  kNan,     -kNan,
                         2.15e9f, -2.15e9f, 88.72f, -87.34f, -103.9f, 1e-5f,  3.14159f, 1e10f};
  std::vector<float> values(static_cast<std::size_t>(shape.numel()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint32_t word = philox4x32_10(static_cast<std::uint32_t>(i), 0, site, 0, 5).v[0];
    values[i] = i % 8 == 3 ? seams[word % std::size(seams)] : std::bit_cast<float>(word);
  }
  return Tensor::from(values, shape);
}

// All 65536 of them, in order of their bits.
inline Tensor all_bf16() {
  Tensor x = Tensor::empty({65536}, DType::BF16);
  for (std::uint32_t i = 0; i < 65536; ++i)
    x.data<bfloat16>()[i] = bfloat16::from_bits(static_cast<std::uint16_t>(i));
  return x;
}

// f32 or bf16; equal bits, or both NaN.
inline void check_numbers(const Tensor& cpu, const Tensor& gpu, const std::string& what = "") {
  const Tensor back = gpu.to(kCpu);
  REQUIRE(back.shape() == cpu.shape());
  REQUIRE(back.dtype() == cpu.dtype());
  const std::vector<float> e = cpu.to_vector(), g = back.to_vector();
  std::string wrong;
  for (std::size_t i = 0; i < e.size() && wrong.empty(); ++i)
    if (std::bit_cast<std::uint32_t>(e[i]) != std::bit_cast<std::uint32_t>(g[i]) &&
        !(std::isnan(e[i]) && std::isnan(g[i])))
      wrong = fmt::format("{} element {}: got {} ({:a}), expected {} ({:a})", describe(cpu), i,
                          g[i], g[i], e[i], e[i]);
  CHECK_MESSAGE(wrong.empty(), what, ": ", wrong);
}

}  // namespace nibble::testing
