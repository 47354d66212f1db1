// int8 products with wgmma (compute capability 9.0): scales that are whole along the contraction or
// change every 128 · n codes. Moves a and b once for each column and row of tiles, mostly from the
// L2 (two blocks of a cluster share b's rows), and writes c once; 2·m·n·k operations of a ceiling
// of 1979 TOP/s on an H200. Measured: tests/bench/results/2026-11-29-int8-gemm.md.
//
// Thread blocks stay and take items in turn: a tile of 128 × kCols results over one segment of the
// contraction. One thread brings codes through the copy engine into a ring of stages, three warps
// bring scales; two warpgroups multiply 64 rows each. Results are the CPU's bits: each contraction
// block adds one fma, ascending, and segments of a long contraction are added in their order,
// whoever computes them, which lets small results fill the device.
#include <algorithm>
#include <utility>

#include "quant/cuda/wgmma_consumer.cuh"
#include "tensor/cuda/tensor_map.h"

namespace nibble::cuda {
namespace wg {
namespace {

template <class S>
__global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 1)
    wgmma_kernel(const __grid_constant__ CUtensorMap map_a,
                 const __grid_constant__ CUtensorMap map_b,
                 const __grid_constant__ CUtensorMap map_c, const __grid_constant__ Problem p,
                 const __grid_constant__ Output out) {
  // The copy engine's swizzle counts on the alignment.
  extern __shared__ __align__(1024) std::uint8_t shared[];
  const std::uint32_t base = shared_address(shared);
  const std::uint32_t rank = hopper::cluster_rank();
  if (threadIdx.x == 0) {
    for (std::uint32_t s = 0; s < S::kStages; ++s) {
      hopper::init_barrier(base + S::kFull + s * 8, 1 + (S::kLocal ? kScaleThreads : 0));
      hopper::init_barrier(base + S::kEmpty + s * 8, 8 * kCluster);  // consumer warps
    }
    hopper::init_barrier(base + S::kTileFull, kScaleThreads);
    hopper::init_barrier(base + S::kTileEmpty, 8);
    hopper::fence_barrier_init();
  }
  __syncthreads();
  hopper::cluster_sync();  // nobody writes into a block that has not begun

  const std::uint32_t first = blockIdx.x / kCluster, stride = gridDim.x / kCluster;
  if (threadIdx.x < 128) {
    hopper::give_registers<40>();
    if (threadIdx.x == 0)
      produce_codes<S>(p, map_a, map_b, base, rank, first, stride);
    else if (threadIdx.x >= 32)
      produce_scales<S>(p, base, rank, threadIdx.x - 32, first, stride);
  } else {
    hopper::take_registers<232>();
    const std::uint32_t thread = threadIdx.x % 128, group = threadIdx.x / 128 - 1;
    Consumer<S> consumer{
        p,      map_c, out, shared, base, group, group * 64 + thread / 32 * 16 + thread % 32 / 4,
        thread, {}};
    if constexpr (S::kAhead)
      consumer.consume_ahead(first, stride, rank);
    else
      consumer.consume(first, stride, rank);
  }
  hopper::cluster_sync();  // a neighbour may still write here
}

template <class S>
std::uint32_t clusters_at_once() {
  static const std::uint32_t count = [] {
    NIBBLE_CUDA_CHECK(cudaFuncSetAttribute(
        wgmma_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(S::kBytes)));
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(kCluster * 1024);
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = S::kBytes;
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {kCluster, 1, 1};
    config.attrs = &attribute;
    config.numAttrs = 1;
    int clusters = 0;
    NIBBLE_CUDA_CHECK(cudaOccupancyMaxActiveClusters(&clusters, wgmma_kernel<S>, &config));
    NIBBLE_CHECK(clusters > 0, "int_gemm", "no cluster of {} blocks fits on this device", kCluster);
    return static_cast<std::uint32_t>(clusters);
  }();
  return count;
}

template <class S>
void run(const IntProduct& product, std::int64_t segment) {
  const Tensor a = padded_codes(product.a, product.k), b = padded_codes(product.b, product.k);
  const std::int64_t m = product.m(), n = product.n(), k = a.size(1);
  Problem p{};
  p.a = scales_of(product.a);
  p.b = scales_of(product.b);
  p.m = static_cast<std::uint32_t>(m);
  p.n = static_cast<std::uint32_t>(n);
  p.k = static_cast<std::uint32_t>(k);
  p.block_steps = static_cast<std::uint32_t>(ceil_div(product.block, kStep));
  p.segment_steps = static_cast<std::uint32_t>(ceil_div(segment, kStep));
  p.segments = static_cast<std::uint32_t>(ceil_div(k, std::int64_t{p.segment_steps} * kStep));
  p.pairs = static_cast<std::uint32_t>(ceil_div(m, kRows * kCluster));
  p.across = static_cast<std::uint32_t>(ceil_div(n, S::kCols));
  const std::int64_t tiles = std::int64_t{p.pairs} * kCluster * p.across;
  NIBBLE_CHECK(tiles * p.segments < INT32_MAX / 16, "int_gemm",
               "got {}, which is too large for one launch", describe(product.c));
  Tensor partial, turn;
  if (p.segments > 1) {
    const Device device = product.c.device();
    partial = Tensor::empty({tiles * kRows, S::kCols}, DType::F32, device);
    turn = Tensor::zeros({tiles * 2}, DType::I32, device);
    p.partial = partial.raw();
    p.turn = reinterpret_cast<std::uint32_t*>(turn.raw());
  }
  Output out = output_of(product);
  p.bias = std::exchange(out.bias, nullptr);  // added before the results leave the registers
  p.boxes = out.is_bf16 && !out.accumulate && out.stride % 8 == 0 && n > 1 && is_aligned(out.c, 16);
  const CUtensorMap map_a = swizzled_map(a.raw(), m, k, k, 1, kRows),
                    map_b = swizzled_map(b.raw(), n, k, k, 1, S::kCols / kCluster);
  const CUtensorMap map_c = p.boxes ? swizzled_map(out.c, m, n, out.stride * 2, 2, 64) : map_a;
  const std::uint32_t items = p.segments * p.pairs * p.across;
  const std::uint32_t clusters = std::min(clusters_at_once<S>(), items);
  launch(wgmma_kernel<S>, dim3(clusters * kCluster), dim3(kThreads), S::kBytes, map_a, map_b, map_c,
         p, out);
}

}  // namespace
}  // namespace wg

void int_gemm_wgmma(const IntProduct& p) {
  if (p.block < p.k) return int_gemm_grouped(p);
  // Sums of integers may be cut anywhere.
  const std::int64_t segment =
      p.plan.segment > 0 ? p.plan.segment : segment_blocks(p.m(), p.n(), p.k, 128) * 128;
  wg::run<wg::Shape<256, wg::Blocks::Whole, false, 4>>(p, segment);
}

}  // namespace nibble::cuda
