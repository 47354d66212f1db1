// int8 products whose scales are local along the contraction, in blocks of 128 · n codes (compute
// capability 9.0). Moves a and b once for each column and row of tiles, mostly from the L2 (blocks
// of a cluster share rows), and writes c once; 2·m·n·k operations of a ceiling of 1979 TOP/s on an
// H200, and two instructions a result and block to rescale sums (three where b's scales differ by
// column). Measured: tests/bench/results/2026-11-30-grouped.md.
//
// Thread blocks stay and take items in turn: a tile of 192 × 128 results over one segment of the
// contraction (quant/segments.h). One thread brings codes through the copy engine into a ring of
// stages, three warps bring scales; three warpgroups multiply 64 rows each, so that others may
// rescale while one multiplies: with two, waiting for products and rescaling take longer than the
// other's products. Results are the CPU's bits: each contraction block adds one fma, ascending, and
// whoever has the first segment of a split tile adds the others, which helpers leave in the L2, in
// their order.
#include <algorithm>

#include "quant/cuda/grouped_consumer.cuh"
#include "tensor/cuda/launch_together.h"
#include "tensor/cuda/part_flags.h"
#include "tensor/cuda/tensor_map.h"

namespace nibble::cuda {
namespace grouped {
namespace {

constexpr int kProducerRegisters = 40, kConsumerRegisters = 152;

template <class S>
__global__ void __cluster_dims__(S::kCluster, 1, 1) __launch_bounds__(kThreads, 1)
    grouped_kernel(const __grid_constant__ CUtensorMap map_a,
                   const __grid_constant__ CUtensorMap map_b,
                   const __grid_constant__ CUtensorMap map_c, const __grid_constant__ Problem p,
                   const __grid_constant__ Output out) {
  // The copy engine's swizzle counts on the alignment.
  extern __shared__ __align__(1024) std::uint8_t shared[];
  std::uint32_t base = shared_address(shared);
  asm volatile("" : "+r"(base));  // or it is computed again in the innermost loop
  const std::uint32_t rank = hopper::cluster_rank();
  if (threadIdx.x == 0) {
    for (std::uint32_t s = 0; s < kStages; ++s) {
      hopper::init_barrier(base + S::kFull + s * 8, 1);
      hopper::init_barrier(base + S::kEmpty + s * 8, kWarps * S::kSharers);
    }
    for (std::uint32_t s = 0; s < kScaleStages; ++s) {
      hopper::init_barrier(base + S::kScaleFull + s * 8, kScaleThreads);
      hopper::init_barrier(base + S::kScaleEmpty + s * 8, 128 * kGroups);
    }
    hopper::fence_barrier_init();
  }
  __syncthreads();
  hopper::cluster_sync();  // nobody writes into a block that has not begun

  const std::uint32_t cluster = blockIdx.x / S::kCluster;
  if (threadIdx.x < 128) {
    hopper::give_registers<kProducerRegisters>();
    if (threadIdx.x == 0)
      produce_codes<S>(p, map_a, map_b, base, rank, cluster);
    else if (threadIdx.x >= 32)
      produce_scales<S>(p, base, rank, threadIdx.x - 32, cluster);
  } else {
    hopper::take_registers<kConsumerRegisters>();
    Consumer<S> consumer(p, map_c, out, base, rank);
    consumer.consume(cluster);
  }
  hopper::cluster_sync();  // a neighbour may still write here
}

template <class S>
std::uint32_t clusters_at_once() {
  static const std::uint32_t count = [] {
    NIBBLE_CUDA_CHECK(cudaFuncSetAttribute(grouped_kernel<S>,
                                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(S::kBytes)));
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(S::kCluster * 1024);
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = S::kBytes;
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {S::kCluster, 1, 1};
    config.attrs = &attribute;
    config.numAttrs = 1;
    int clusters = 0;
    NIBBLE_CUDA_CHECK(cudaOccupancyMaxActiveClusters(&clusters, grouped_kernel<S>, &config));
    NIBBLE_CHECK(clusters > 0, "int_gemm", "no cluster of {} blocks fits on this device",
                 S::kCluster);
    return static_cast<std::uint32_t>(clusters);
  }();
  return count;
}

template <class S>
void run(const IntProduct& product) {
  const Tensor a = code_rows(product.a, product.k), b = code_rows(product.b, product.k);
  const std::int64_t m = product.m(), n = product.n(), k = a.size(1);
  Problem p{};
  p.a = scales_of(product.a);
  p.b = scales_of(product.b);
  const auto quads = [](const CodeOperand& x) {
    const bool whole = x.scales.size(1) % kQuad == 0 && scales_of(x).pitch % kQuad == 0;
    return whole && is_aligned(x.scales.raw(), 16);
  };
  p.quads_a = quads(product.a);
  p.quads_b = quads(product.b);
  p.m = static_cast<std::uint32_t>(m);
  p.n = static_cast<std::uint32_t>(n);
  p.block_steps = static_cast<std::uint32_t>(ceil_div(product.block, kStep));
  p.segments = Segments(m, n, product.k, product.block);
  const std::int64_t shares = ceil_div(m, Segments::kRows) * ceil_div(n, Segments::kCols) +
                              std::int64_t{p.segments.helpers};
  NIBBLE_CHECK(shares < INT32_MAX / 64, "int_gemm", "got {}, which is too large for one launch",
               describe(product.c));
  p.clusters = static_cast<std::uint32_t>(std::min<std::int64_t>(clusters_at_once<S>(), shares));
  Tensor partial;
  if (p.segments.split > 0) {
    const std::int64_t slots = std::int64_t{p.segments.split + p.segments.helpers} * S::kCluster;
    partial = Tensor::empty({slots * kRows, kCols}, DType::F32, product.c.device());
    p.partial = reinterpret_cast<float4*>(partial.raw());
    p.there = part_flags(slots * kGroups);
  }
  const Output out = output_of(product);
  p.bias = bias_of(product);  // added before the results leave the registers
  Tensor bias;
  if (p.bias.is_bf16 && !is_aligned(p.bias.values, 4)) {  // two are copied at once
    bias = product.bias.to(DType::F32);
    p.bias = {bias.raw(), false};
  }
  p.boxes = out.is_bf16 && !out.accumulate && out.stride % 8 == 0 && n > 1 && is_aligned(out.c, 16);
  const CUtensorMap map_a = swizzled_map(a.raw(), m, k, row_bytes(a), 1, kRows / S::kAcross),
                    map_b = swizzled_map(b.raw(), n, k, row_bytes(b), 1, kCols / S::kDown);
  const CUtensorMap map_c = p.boxes ? swizzled_map(out.c, m, n, out.stride * 2, 2, 16) : map_a;
  const dim3 grid(p.clusters * S::kCluster), threads(kThreads);
  // Who waits must not keep others out: segments.h, SegmentWalk.
  if (p.segments.split > 0 && p.clusters != std::min<std::int64_t>(shares, Segments::kWorkers))
    launch_together(grouped_kernel<S>, grid, threads, S::kBytes, map_a, map_b, map_c, p, out);
  else
    launch(grouped_kernel<S>, grid, threads, S::kBytes, map_a, map_b, map_c, p, out);
}

}  // namespace
}  // namespace grouped

void int_gemm_grouped(const IntProduct& p) {
  using namespace grouped;
  const std::int64_t steps = ceil_div(p.block, kStep);
  if (p.b.tile_rows % 64 == 0 || p.b.tile_rows >= p.n())
    return steps == 1 ? run<Shape<1, 2, 1, true>>(p) : run<Shape<1, 2, 0, true>>(p);
  if (steps == 1) return run<Shape<1, 2, 1, false>>(p);
  if (steps == 2) return run<Shape<1, 2, 2, false>>(p);
  run<Shape<1, 2, 0, false>>(p);
}

}  // namespace nibble::cuda
