#include "quant/int_gemm_route.h"

#include <algorithm>

#include "tensor/check.h"

namespace nibble::cuda {
namespace {

std::int64_t largest(DType payload) { return payload == DType::U8 ? 255 : 128; }

// Measured beside Wgmma (tests/bench/results/2026-11-29-int8-resident.md).
bool resident_is_faster(const IntGemmLayout& x) {
  return x.k <= kMaxResidentDepth && x.m >= 1024 && x.n >= 384;
}

bool fits_int8(DType payload) { return payload == DType::I8 || payload == DType::U4x2; }

struct Choice {
  IntGemmRoute route;
  std::string_view reason;
};

Choice choose(const IntGemmLayout& x) {
  using enum IntGemmRoute;
  const std::int64_t block = std::min(x.block, x.k);
  const bool whole = block == x.k;
  if (x.k == 0) return {General, "there is nothing to sum"};
  if (block * largest(x.a) * largest(x.b) > INT32_MAX)
    return {General, "a block's sum could pass 2^31"};
  if (whole && x.zero_points) return {Wgmma, "zero points, one scale over the contraction"};
  if (whole && !(fits_int8(x.a) && fits_int8(x.b)))
    return {Wgmma, "u8 codes, one scale over the contraction"};
  if (whole && resident_is_faster(x))
    return {Resident, "s8 codes, one scale over a short contraction"};
  if (whole) return {Wgmma, "s8 codes, one scale over the contraction"};
  if (x.zero_points) return {General, "zero points of several blocks need sums of codes of each"};
  if (!fits_int8(x.a) || !fits_int8(x.b)) return {General, "unsigned codes of 8 bits don't fit s8"};
  if (block % 128 == 0) return {Wgmma, "s8 codes, scales in blocks of a multiple of 128"};
  if (block == 32 || block == 64) return {Tiles, "s8 codes, scales in blocks of 32 or 64"};
  return {General, "blocks are neither 32, 64 nor a multiple of 128"};
}

}  // namespace

std::string_view to_string(IntGemmRoute route) {
  switch (route) {
    case IntGemmRoute::Library: return "cublaslt+scale";
    case IntGemmRoute::Resident: return "wgmma resident";
    case IntGemmRoute::Wgmma: return "wgmma";
    case IntGemmRoute::Tiles: return "tensor-core tiles";
    case IntGemmRoute::General: return "general dp4a";
  }
  fail("int_gemm", "no such route: got {}", static_cast<int>(route));
}

IntGemmRoute int_gemm_route(const IntGemmLayout& layout) { return choose(layout).route; }
std::string_view int_gemm_reason(const IntGemmLayout& layout) { return choose(layout).reason; }

}  // namespace nibble::cuda
