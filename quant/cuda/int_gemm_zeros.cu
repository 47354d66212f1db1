// int8 and uint8 products with zero points: int_gemm_whole.cu's kernel, which adds their share
// za·Σb + zb·Σa + za·zb·k before it scales. The sums of rows read the codes once more, first
// (memory-bound). Measured: tests/bench/results/2026-11-29-gemmb.md.
#include "quant/cuda/whole_kernel.cuh"

namespace nibble::cuda {
namespace {

constexpr unsigned kThreads = 256;

// kPerRow threads a row of whole 16-byte chunks.
template <unsigned kPerRow, bool kSigned>
__global__ void __launch_bounds__(kThreads)
    sum_rows_kernel(std::int32_t* sums, const int4* codes, std::int64_t rows,
                    std::uint32_t chunks) {
  __shared__ std::int32_t scratch[kWarp];
  const std::int64_t row = std::int64_t{blockIdx.x} * (kThreads / kPerRow) + threadIdx.x / kPerRow;
  std::int32_t sum = 0;
  const auto add = [&](std::int32_t word) {
    constexpr std::uint32_t kOnes = 0x01010101;
    if constexpr (kSigned)
      sum = __dp4a(word, static_cast<std::int32_t>(kOnes), sum);
    else
      sum = static_cast<std::int32_t>(
          __dp4a(static_cast<std::uint32_t>(word), kOnes, static_cast<std::uint32_t>(sum)));
  };
  if (row < rows)
#pragma unroll 4
    for (std::uint32_t i = threadIdx.x % kPerRow; i < chunks; i += kPerRow) {
      const int4 x = __ldg(codes + row * chunks + i);
      add(x.x), add(x.y), add(x.z), add(x.w);
    }
  sum = kPerRow == kWarp ? warp_sum(sum) : block_sum(sum, scratch);
  if (row < rows && threadIdx.x % kPerRow == 0) sums[row] = sum;
}

Tensor sum_rows(const Tensor& codes) {
  const std::int64_t rows = codes.size(0), chunks = codes.size(1) / 16;
  Tensor sums = Tensor::empty({rows}, DType::I32, codes.device());
  const auto run = [&](auto kernel, unsigned per_row) {
    launch(kernel, dim3(static_cast<unsigned>(ceil_div(rows, kThreads / per_row))), dim3(kThreads),
           0, sums.data<std::int32_t>(), reinterpret_cast<const int4*>(codes.raw()), rows,
           static_cast<std::uint32_t>(chunks));
  };
  const bool is_signed = codes.dtype() == DType::I8;
  if (chunks < kThreads)
    run(is_signed ? sum_rows_kernel<kWarp, true> : sum_rows_kernel<kWarp, false>, kWarp);
  else
    run(is_signed ? sum_rows_kernel<kThreads, true> : sum_rows_kernel<kThreads, false>, kThreads);
  return sums;
}

template <class A, class B>
void run(const IntProduct& p, const whole::Extras& extras) {
  using Shape = whole::Shape<256, 4, whole::Ending::Zeros, A, B>;
  const WholePlan plan = whole_plan(p.plan, p.m(), p.n(), p.k, whole::clusters_at_once<Shape>());
  whole::run<Shape>(p, plan.columns == Shape::kCols ? plan.rounds : 0, extras);
}

}  // namespace

void int_gemm_zeros(const IntProduct& product) {
  using int8::S8, int8::U8;
  IntProduct p = product;
  p.a.codes = padded_codes(product.a, p.k);
  p.b.codes = padded_codes(product.b, p.k);
  whole::Extras extras;
  if (p.b.zeros) extras.sums_a = sum_rows(p.a.codes);
  if (p.a.zeros) extras.sums_b = sum_rows(p.b.codes);
  const bool signed_a = p.a.codes.dtype() == DType::I8, signed_b = p.b.codes.dtype() == DType::I8;
  if (signed_a && signed_b) return run<S8, S8>(p, extras);
  if (signed_a) return run<S8, U8>(p, extras);
  if (signed_b) return run<U8, S8>(p, extras);
  run<U8, U8>(p, extras);
}

}  // namespace nibble::cuda
