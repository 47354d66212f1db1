// fp8 products beside cuBLAS's bf16 on one GPU: the shapes of a GPT-2's linear layers and square
// ones. Random data, cold L2, medians of single runs; every product is first compared with the
// decoded one in f32: noise over a thousandth of the signal's power is WRONG. Prints a markdown
// table.
//   fp8_gemm_bench [repeats [first row [last row]]]
#include <fmt/format.h>

#include <cstdlib>

#include "quant/cuda/fp8_gemm.h"
#include "quant/qtensor.h"
#include "tensor/cuda/timing.h"
#include "tensor/ops.h"

using namespace nibble;
using nibble::cuda::median_ms;

namespace {

const Device kGpu = cuda_device(0);

struct Row {
  std::int64_t m, n, k;
  bool wgrad;  // f32 results, an e5m2 gradient on the left
};

// Noise over signal of the first rows of c, held against the decoded product.
double noise(const Tensor& c, const QTensor& a, const QTensor& b) {
  const std::int64_t rows = std::min<std::int64_t>(c.size(0), 512);
  const Tensor part = ops::contiguous(dequantize(a).slice(0, 0, rows));
  const Tensor truth = ops::matmul(part, dequantize(b).t());
  const Tensor error = ops::sub(c.slice(0, 0, rows).to(DType::F32), truth);
  return ops::sum(ops::mul(error, error)).item() / ops::sum(ops::mul(truth, truth)).item();
}

double checked(int repeats, Tensor& c, const QTensor& a, const QTensor& b, Accumulation sums) {
  const auto run = [&] { matmul_nt_into(c, a, b, Mode::Real, false, sums); };
  c.fill(7);
  run();
  if (!(noise(c, a, b) < 1e-3)) return -1;
  return median_ms(repeats, run);
}

void measure(const Row& r, int repeats) {
  const double operations = 2.0 * static_cast<double>(r.m) * static_cast<double>(r.n) *
                            static_cast<double>(r.k) / 1e9;  // per millisecond: TFLOP/s
  const Tensor x = Tensor::normal({r.m, r.k}, 0, 1, RngKey{5, 1}, DType::F32, kGpu).to(DType::BF16),
               w = Tensor::normal({r.n, r.k}, 0, 1, RngKey{5, 2}, DType::F32, kGpu).to(DType::BF16);
  Tensor c = Tensor::empty({r.m, r.n}, r.wgrad ? DType::F32 : DType::BF16, kGpu);
  const double bf16 = median_ms(repeats, [&] { ops::matmul_into(c, x, w.t(), false); });
  fmt::print("| {}, {}, {}{} | {:.1f} us, {:.0f} ", r.m, r.n, r.k, r.wgrad ? " (wgrad)" : "",
             bf16 * 1e3, operations / bf16);
  const auto cell = [&](const std::string& tile, Accumulation sums) {
    const std::string left = r.wgrad ? "e5m2" : "e4m3";
    const double ms = checked(repeats, c, quantize(x, parse_spec(left + ":" + tile + ":recip")),
                              quantize(w, parse_spec("e4m3:" + tile + ":recip")), sums);
    if (ms < 0)
      fmt::print("| WRONG ");
    else
      fmt::print("| {:.1f} us, {:.0f}, {:.2f}x ", ms * 1e3, operations / ms, bf16 / ms);
  };
  cell("tensor", Accumulation::Full);
  cell("tensor", Accumulation::Fast);
  cell("row", Accumulation::Full);
  cell("row", Accumulation::Fast);
  cell("tile2x0", Accumulation::Full);
  fmt::print("|\n");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const int repeats = argc > 1 ? std::atoi(argv[1]) : 15;
  if (cuda::device_count() == 0) {
    fmt::print(stderr, "fp8_gemm_bench: no GPU here\n");
    return 1;
  }
  fmt::print("{}; time, TFLOP/s, ratio to bf16\n\n", cuda::device_name(0));
  fmt::print(
      "| M, N, K | cuBLASLt bf16 | tensor scales | tensor, fast | row scales | row, fast | sums, "
      "then scales |\n|---|---|---|---|---|---|---|\n");
  const Row rows[] = {
      {32768, 2304, 768, false}, {32768, 768, 768, false},  {32768, 3072, 768, false},
      {32768, 768, 3072, false}, {768, 768, 32768, true},   {2304, 768, 32768, true},
      {3072, 768, 32768, true},  {768, 3072, 32768, true},  {8192, 4800, 1600, false},
      {8192, 1600, 1600, false}, {8192, 6400, 1600, false}, {8192, 1600, 6400, false},
      {1600, 6400, 8192, true},  {1600, 1600, 8192, true},  {32768, 4096, 4096, false},
      {4096, 4096, 4096, false}, {8192, 8192, 8192, false}, {32768, 50304, 768, false}};
  const auto count = static_cast<int>(std::size(rows));
  const int first = argc > 2 ? std::atoi(argv[2]) : 0;
  const int last = argc > 3 ? std::atoi(argv[3]) : count - 1;
  for (int i = std::max(first, 0); i <= std::min(last, count - 1); ++i) measure(rows[i], repeats);
  fmt::print("\nproducts by route:");
  for (const Fp8Route route :
       {Fp8Route::TensorScales, Fp8Route::RowScales, Fp8Route::Rescaled, Fp8Route::Decoded})
    fmt::print(" {} {};", to_string(route), cuda::fp8_products(route));
  fmt::print("\n");
}
