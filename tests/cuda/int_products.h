// Operands and products of codes for lockstep tests: the CPU's bits, whatever kernel serves.
#pragma once

#include <algorithm>
#include <array>
#include <functional>
#include <string>
#include <vector>

#include "quant/cuda/int_gemm.h"
#include "tests/cuda/lockstep.h"

namespace nibble::testing {

enum Codes { kI8, kU8, kI4, kU4 };

struct Side {
  Codes codes = kI8;
  std::int64_t tile_rows = 1;
  bool grouped = true;  // a scale for each contraction block, else one
  bool zeros = false;
};
struct Case {
  std::int64_t m, n, k, block;
  Side a, b;
};

inline std::uint32_t word(std::int64_t index, std::uint32_t site) {
  return philox4x32_10(static_cast<std::uint32_t>(index), 0, site, 0, 7).v[0];
}

// Codes with both ends of their range frequent, and scales that are not powers of two.
inline CodeOperand make(const Side& side, std::int64_t rows, std::int64_t k, std::int64_t blocks,
                        std::uint32_t site) {
  CodeOperand x;
  const bool nibbles = side.codes == kI4 || side.codes == kU4;
  const DType payload = nibbles ? DType::U4x2 : side.codes == kU8 ? DType::U8 : DType::I8;
  x.is_signed = side.codes != kU4;
  x.tile_rows = std::max<std::int64_t>(1, side.tile_rows);
  x.codes = Tensor::empty({rows, nibbles ? k + k % 2 : k}, payload);
  auto* const bytes = reinterpret_cast<std::uint8_t*>(x.codes.raw());
  for (std::int64_t i = 0; i < x.codes.bytes(); ++i) {
    const std::uint32_t draw = word(i, site);
    const std::uint32_t byte = draw % 8 == 0 ? 0x80 : draw % 8 == 1 ? 0x7f : draw >> 8;
    const bool padding = nibbles && k % 2 != 0 && (i + 1) % ((k + 1) / 2) == 0;
    bytes[i] = static_cast<std::uint8_t>(padding ? byte & 15 : byte);
  }
  std::vector<float> scales, zeros;
  const Shape tiles{(rows + x.tile_rows - 1) / x.tile_rows, side.grouped ? blocks : 1};
  for (std::int64_t i = 0; i < tiles.numel(); ++i) {
    const std::uint32_t draw = word(i, site + 100);
    scales.push_back(0.001f + uniform01(draw));
    zeros.push_back(static_cast<float>(static_cast<int>(draw % 1001) - 500));
  }
  x.scales = Tensor::from(scales, tiles);
  if (side.zeros) x.zeros = Tensor::from(zeros, tiles);
  return x;
}

inline CodeOperand on_gpu(const CodeOperand& x) {
  CodeOperand y = x;
  y.codes = x.codes.to(kGpu);
  y.scales = x.scales.to(kGpu);
  if (x.zeros) y.zeros = x.zeros.to(kGpu);
  return y;
}

inline std::string name(const Case& t) {
  const auto side = [](const Side& s) {
    return fmt::format("{}{}{}{}", std::array{"i8", "u8", "i4", "u4"}[s.codes],
                       s.grouped ? " grouped" : "", s.zeros ? " zeros" : "", s.tile_rows);
  };
  return fmt::format("[{}, {}] x [{}, {}]T by {}: {} x {}", t.m, t.k, t.n, t.k, t.block, side(t.a),
                     side(t.b));
}

// Results lie in a frame whose rest must stay as it was.
struct Result {
  DType dtype = DType::F32;
  bool bias = true, accumulate = false;
  std::int64_t left = 0, right = 0;
  DType bias_dtype = DType::F32;
};

using Multiply = std::function<void(const cuda::IntProduct&)>;
inline void by_route(const cuda::IntProduct& p) {
  Tensor c = p.c;
  NIBBLE_DISPATCH(c.device(), int_gemm(c, p.a, p.b, p.k, p.block, p.bias, p.accumulate));
}

inline void check(const Case& t, const Result& r = {}, const Multiply& multiply = by_route) {
  if (!in_sample()) return;
  const std::int64_t blocks = t.k == 0 ? 0 : (t.k + t.block - 1) / t.block;
  const CodeOperand a = make(t.a, t.m, t.k, blocks, 1), b = make(t.b, t.n, t.k, blocks, 2);
  std::vector<float> values;
  for (std::int64_t j = 0; j < t.n; ++j) values.push_back(static_cast<float>(j) * 0.37f - 3.0f);
  const Tensor bias = r.bias ? Tensor::from(values, {t.n}).to(r.bias_dtype) : Tensor();
  Tensor cpu = Tensor::full({t.m + 1, r.left + t.n + r.right}, 0.75, r.dtype), gpu = cpu.to(kGpu);
  const auto inner = [&](const Tensor& frame) {
    return frame.slice(0, 0, t.m).slice(1, r.left, r.left + t.n);
  };
  by_route({inner(cpu), a, b, t.k, t.block, bias, r.accumulate});
  multiply(
      {inner(gpu), on_gpu(a), on_gpu(b), t.k, t.block, bias ? bias.to(kGpu) : bias, r.accumulate});
  check_bits(cpu, gpu, name(t));
}

inline constexpr Side kTensor{kI8, 1 << 20, false, false}, kRow{kI8, 1, false, false}, kGroup{},
    kBlock128{kI8, 128, true, false};

}  // namespace nibble::testing
