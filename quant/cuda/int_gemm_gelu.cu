// int8 products that end in tanh-GELU, and what it is applied to if asked: int_gemm_whole.cu's
// kernel with another 25 or so operations a result, where a map of its own would move 4 bytes a
// result (bf16). Measured: tests/bench/results/2026-11-29-gemmb.md.
#include "quant/cuda/whole_kernel.cuh"

namespace nibble::cuda {

void int_gemm_gelu_whole(const IntProduct& p, const Tensor& before) {
  using Shape = whole::Shape<256, 4, whole::Ending::Gelu>;
  const WholePlan plan = whole_plan(p.plan, p.m(), p.n(), p.k, whole::clusters_at_once<Shape>());
  whole::run<Shape>(p, plan.columns == Shape::kCols ? plan.rounds : 0, {.kept = before});
}

}  // namespace nibble::cuda
