// int8 products with wgmma (compute capability 9.0) for scales that are whole along the
// contraction. Moves a and b once for each column and row of tiles, mostly from the L2 (two blocks
// of a cluster share b's rows), and writes c once; 2·m·n·k operations of a ceiling of 1979 TOP/s on
// an H200. Measured: tests/bench/results/2026-11-29-gemmb.md.
//
// Clusters stay and take tiles of 128 × kCols results in turn. One thread brings codes through the
// copy engine into a ring of stages, three warps bring scales; two warpgroups multiply 64 rows
// each. Where tiles don't fill the device, some are split along the contraction (quant/stream_k.h):
// sums of integers may be cut anywhere. Their parts meet in the L2 and end a slice of the tile
// each.
#include "quant/cuda/whole_kernel.cuh"

namespace nibble::cuda {

void int_gemm_whole(const IntProduct& p) {
  using Wide = whole::Shape<256, 4>;
  const WholePlan plan = whole_plan(p.plan, p.m(), p.n(), p.k, whole::clusters_at_once<Wide>());
  switch (plan.columns) {
    case 256: return whole::run<Wide>(p, plan.rounds);
    case 192: return whole::run<whole::Shape<192, 4>>(p, plan.rounds);
    case 128: return whole::run<whole::Shape<128, 6>>(p, plan.rounds);
    default: fail("int_gemm", "got tiles of {} columns, expected 128, 192 or 256", plan.columns);
  }
}

}  // namespace nibble::cuda
