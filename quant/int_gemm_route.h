// Which of the GPU's kernels multiplies a pair of integer code matrices: decided on the host, in
// every build, so that a machine without a GPU can tell what one would run.
#pragma once

#include <cstdint>
#include <string_view>

#include "tensor/dtype.h"

namespace nibble::cuda {

enum class IntGemmRoute : std::uint8_t {
  Library,   // cuBLASLt s8 × s8 → s32 into scratch memory, then one pass that scales
  Resident,  // our kernel for Hopper's warpgroup products that keeps a panel of b in shared memory
  Wgmma,     // our kernel for them that brings tiles of both, any depth; both scale in registers
  Tiles,     // our kernel for mma.sync, likewise
  General,   // our dp4a kernel: any codes, any blocks, zero points
};
std::string_view to_string(IntGemmRoute route);

struct IntGemmLayout {
  std::int64_t m, n, k, block;
  DType a, b;        // payloads
  bool zero_points;  // of either operand
};
// Of a contraction that Resident serves: more would not fit beside its stages.
inline constexpr std::int64_t kMaxResidentDepth = 768;
// Library: only where it is asked for, as a second opinion. Wgmma: any codes and zero points in one
// block, or symmetric codes that fit int8 (I8, U4x2) in blocks of a multiple of 128. Resident: such
// codes in one short block, for 1024 rows and 384 columns or more. Tiles: in blocks of 32 or 64.
IntGemmRoute int_gemm_route(const IntGemmLayout& layout);
// Half a sentence: "its codes have zero points".
std::string_view int_gemm_reason(const IntGemmLayout& layout);

}  // namespace nibble::cuda
