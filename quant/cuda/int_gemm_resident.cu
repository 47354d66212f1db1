// int8 products with wgmma (compute capability 9.0) of short contractions with one scale over them:
// a panel of b stays in shared memory while rows of a pass by. Moves a once for each panel (mostly
// from the L2), b once for each part of the rows, and writes c once; 2·m·n·k operations of a
// ceiling of 1979 TOP/s on an H200. Measured: tests/bench/results/2026-11-29-int8-resident.md.
//
// The warpgroups of a block take tiles of 64 × 192 results in turn: while the sums of one are
// scaled and written, the products of another run, which a short contraction needs most. Results
// are the CPU's bits: integer sums are exact, then come the roundings of quant/kernels.h.
#include <algorithm>

#include "quant/cuda/resident_consumer.cuh"
#include "tensor/cuda/tensor_map.h"

namespace nibble::cuda {
namespace resident {
namespace {

__global__ void __launch_bounds__(kThreads, 1)
    resident_kernel(const __grid_constant__ CUtensorMap map_a,
                    const __grid_constant__ CUtensorMap map_b,
                    const __grid_constant__ CUtensorMap map_c, const __grid_constant__ Problem p,
                    const __grid_constant__ Output out) {
  // The copy engine's swizzle counts on the alignment.
  extern __shared__ __align__(1024) std::uint8_t shared[];
  const std::uint32_t base = shared_address(shared);
  if (threadIdx.x == 0) {
    for (std::uint32_t s = 0; s < kMaxStages; ++s) {
      hopper::init_barrier(base + kFull + s * 8, 1);
      hopper::init_barrier(base + kEmpty + s * 8, 4);  // warps of the group that reads it
    }
    for (std::uint32_t s = 0; s < kMaxSteps; ++s)
      hopper::init_barrier(base + kPanelFull + s * 8, 1);
    hopper::init_barrier(base + kPanelEmpty, kConsumers / 32);
    hopper::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x < kConsumers) {
    hopper::take_registers<160>();
    Consumer consumer{p, map_c, out, shared, base, threadIdx.x / 128, threadIdx.x % 128, {}};
    consumer.consume();
  } else {
    hopper::give_registers<32>();
    if (threadIdx.x == kConsumers) produce(p, map_a, map_b, base);
  }
}

// Into how many parts the tiles are cut: the block with most tiles decides, and a panel takes as
// long as about two of them until its first products.
std::uint32_t parts_of(std::uint32_t tiles, std::uint32_t panels, std::uint32_t blocks) {
  constexpr std::uint32_t kPanelTiles = 2;
  std::uint64_t best = UINT64_MAX;
  std::uint32_t parts = 1;
  for (std::uint32_t i = 1; i <= std::min(tiles, 4 * blocks); ++i) {
    const std::uint64_t rounds = (std::uint64_t{panels} * i + blocks - 1) / blocks;
    const std::uint64_t cost = rounds * ((tiles + i - 1) / i + kPanelTiles);
    if (cost < best) best = cost, parts = i;
  }
  return parts;
}

void run(const IntProduct& product) {
  const Tensor a = code_rows(product.a, product.k), b = code_rows(product.b, product.k);
  const std::int64_t m = product.m(), n = product.n(), k = a.size(1);
  Problem p{};
  const Tensor down =
      product.a.scales.is_contiguous() ? product.a.scales : product.a.scales.clone();
  p.down = down.data<float>();
  p.down_rows = divisor(static_cast<std::uint32_t>(std::min(product.a.tile_rows, m)));
  p.across = scales_of(product.b);
  p.m = static_cast<std::uint32_t>(m);
  p.n = static_cast<std::uint32_t>(n);
  p.steps = static_cast<std::uint32_t>(ceil_div(k, kStep));
  const std::uint32_t before = kPanel + p.steps * kPanelStep;
  p.stages = std::min(kMaxStages, (kMaxBytes - before) / kStage);
  p.tiles = static_cast<std::uint32_t>(ceil_div(m, kRows));
  p.panels = static_cast<std::uint32_t>(ceil_div(n, kCols));
  const auto blocks = static_cast<std::uint32_t>(multiprocessors());
  p.parts = parts_of(p.tiles, p.panels, blocks);
  const Output out = output_of(product);
  p.bias = bias_of(product);  // added before the results leave the registers
  p.boxes = out.is_bf16 && !out.accumulate && out.stride % 8 == 0 && n > 1 && is_aligned(out.c, 16);
  const CUtensorMap map_a = swizzled_map(a.raw(), m, k, row_bytes(a), 1, kRows),
                    map_b = swizzled_map(b.raw(), n, k, row_bytes(b), 1, kCols);
  const CUtensorMap map_c =
      p.boxes ? swizzled_map(out.c, m, n, out.stride * 2, 2, kBoxRows) : map_a;
  static const bool ready = [] {
    NIBBLE_CUDA_CHECK(cudaFuncSetAttribute(resident_kernel,
                                           cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxBytes));
    return true;
  }();
  (void)ready;
  launch(resident_kernel, dim3(std::min(blocks, p.panels * p.parts)), dim3(kThreads),
         before + p.stages * kStage, map_a, map_b, map_c, p, out);
}

}  // namespace
}  // namespace resident

void int_gemm_resident(const IntProduct& p) {
  NIBBLE_CHECK(
      p.block >= p.k && p.k <= kMaxResidentDepth, "int_gemm",
      "got {} codes in blocks of {}, expected one block of at most {} for a resident panel", p.k,
      p.block, kMaxResidentDepth);
  resident::run(p);
}

}  // namespace nibble::cuda
