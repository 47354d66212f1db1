// The kernel for scales that are whole along the contraction, and its launch; what it does and how
// fast stands in int_gemm_whole.cu.
#pragma once

#include <algorithm>

#include "quant/cuda/whole_consumer.cuh"
#include "quant/cuda/whole_plan.h"
#include "tensor/cuda/launch_together.h"
#include "tensor/cuda/part_flags.h"
#include "tensor/cuda/tensor_map.h"

namespace nibble::cuda::whole {

template <class S>
__global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 1)
    whole_kernel(const __grid_constant__ CUtensorMap map_a,
                 const __grid_constant__ CUtensorMap map_b,
                 const __grid_constant__ CUtensorMap map_c,
                 const __grid_constant__ CUtensorMap map_kept, const __grid_constant__ Problem p,
                 const __grid_constant__ Output out) {
  // The copy engine's swizzle counts on the alignment.
  extern __shared__ __align__(1024) std::uint8_t shared[];
  const std::uint32_t base = shared_address(shared);
  const std::uint32_t rank = hopper::cluster_rank(), worker = blockIdx.x / kCluster;
  if (threadIdx.x == 0) {
    for (std::uint32_t s = 0; s < S::kStages; ++s) {
      hopper::init_barrier(base + S::kFull + s * 8, 1);
      hopper::init_barrier(base + S::kEmpty + s * 8, 8 * kCluster);  // consumer warps
    }
    hopper::init_barrier(base + S::kTileFull, kScaleThreads);
    hopper::init_barrier(base + S::kTileEmpty, 256);  // consumers
    hopper::fence_barrier_init();
  }
  __syncthreads();
  hopper::cluster_sync();  // nobody writes into a block that has not begun

  if (threadIdx.x < 128) {
    hopper::give_registers<40>();
    if (threadIdx.x == 0)
      produce_codes<S>(p, map_a, map_b, base, rank, worker);
    else if (threadIdx.x >= 32)
      produce_scales<S>(p, base, rank, threadIdx.x - 32, worker);
  } else {
    hopper::take_registers<232>();
    const std::uint32_t thread = threadIdx.x % 128, group = threadIdx.x / 128 - 1;
    const std::uint32_t row = group * 64 + thread / 32 * 16 + thread % 32 / 4;
    Consumer<S>{p, map_c, map_kept, out, shared, base, rank, group, row, thread, {}}.consume(
        worker);
  }
  hopper::cluster_sync();  // a neighbour may still write here
}

template <class S>
std::uint32_t clusters_at_once() {
  static const std::uint32_t count = [] {
    NIBBLE_CUDA_CHECK(cudaFuncSetAttribute(
        whole_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(S::kBytes)));
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
    NIBBLE_CUDA_CHECK(cudaOccupancyMaxActiveClusters(&clusters, whole_kernel<S>, &config));
    NIBBLE_CHECK(clusters > 0, "int_gemm", "no cluster of {} blocks fits on this device", kCluster);
    return static_cast<std::uint32_t>(clusters);
  }();
  return count;
}

// What an ending takes beside the product itself.
struct Extras {
  Tensor kept = {};                 // GELU: what it was applied to, may be undefined
  Tensor sums_a = {}, sums_b = {};  // zero points: sums of rows' codes, undefined where not needed
};

template <class S>
void run(const IntProduct& product, std::uint32_t rounds, const Extras& extras = {}) {
  const Tensor a = code_rows(product.a, product.k), b = code_rows(product.b, product.k);
  const std::int64_t m = product.m(), n = product.n(), k = a.size(1);
  Problem p{};
  p.a = scales_of(product.a);
  p.b = scales_of(product.b);
  p.m = static_cast<std::uint32_t>(m);
  p.n = static_cast<std::uint32_t>(n);
  p.pairs = static_cast<std::uint32_t>(ceil_div(m, kRows * kCluster));
  p.across = static_cast<std::uint32_t>(ceil_div(n, S::kCols));
  NIBBLE_CHECK(std::int64_t{p.pairs} * p.across < INT32_MAX / 16, "int_gemm",
               "got {}, which is too large for one launch", describe(product.c));
  p.plan = deal(p.pairs * p.across, static_cast<std::uint32_t>(ceil_div(k, kStep)), rounds,
                clusters_at_once<S>());
  p.strip = strip_of(p.plan);
  Tensor partial;
  if (p.plan.split > 0) {
    const std::int64_t blocks = std::int64_t{p.plan.slots()} * kCluster;
    partial = Tensor::empty({blocks * kRows, S::kCols}, DType::I32, product.c.device());
    p.partial = reinterpret_cast<int4*>(partial.raw());
    p.arrived = part_flags(blocks * 2);
  }
  const Output out = output_of(product);
  p.bias = bias_of(product);  // added before the results leave the registers
  const auto fits_boxes = [&](const Output& o) {
    return o.is_bf16 && !o.accumulate && o.stride % 8 == 0 && n > 1 && is_aligned(o.c, 16);
  };
  p.boxes = fits_boxes(out);
  p.k = static_cast<std::uint32_t>(product.k);
  if (extras.kept) {
    IntProduct before = product;
    before.c = extras.kept;
    p.kept = output_of(before);
    p.keeps = true;
    p.boxes = p.boxes && fits_boxes(p.kept);
  }
  const auto largest = [](const Tensor& codes) {
    return codes.dtype() == DType::U8 ? 255.f : 128.f;
  };
  const auto counts = [](const Tensor& sums) { return sums ? sums.data<std::int32_t>() : nullptr; };
  p.largest_a = largest(a), p.largest_b = largest(b);
  p.sums_a = counts(extras.sums_a), p.sums_b = counts(extras.sums_b);
  const CUtensorMap map_a = swizzled_map(a.raw(), m, k, row_bytes(a), 1, kRows),
                    map_b = swizzled_map(b.raw(), n, k, row_bytes(b), 1, S::kCols / kCluster);
  const auto result_map = [&](const Output& o, bool used) {
    return used ? swizzled_map(o.c, m, n, o.stride * 2, 2, 64) : map_a;
  };
  const CUtensorMap map_c = result_map(out, p.boxes),
                    map_kept = result_map(p.kept, p.boxes && p.keeps);
  const dim3 grid(p.plan.workers * kCluster), block(kThreads);
  if (p.plan.split > 0)
    launch_together(whole_kernel<S>, grid, block, S::kBytes, map_a, map_b, map_c, map_kept, p, out);
  else
    launch(whole_kernel<S>, grid, block, S::kBytes, map_a, map_b, map_c, map_kept, p, out);
}

}  // namespace nibble::cuda::whole
