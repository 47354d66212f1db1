// int8 products beside cuBLAS's bf16 on one GPU: the shapes of a GPT-2's linear layers and square
// ones. Random data, cold L2 (a 256 MiB tensor is written before each run), medians of single runs;
// every product is compared with another route's bits first. Prints a markdown table.
//   int_gemm_bench [repeats [first row [last row]]]
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "quant/cuda/int_gemm.h"
#include "tensor/cuda/timing.h"
#include "tensor/ops.h"

using namespace nibble;
using nibble::cuda::median_ms;

namespace {

const Device kGpu = cuda_device(0);

Tensor random_floats(const Shape& shape, double low, double high, std::uint32_t site, DType dtype) {
  return Tensor::uniform(shape, low, high, RngKey{5, site}, dtype, kGpu);
}
Tensor random_codes(std::int64_t rows, std::int64_t cols, std::uint32_t site) {
  return random_floats({rows, cols}, -127.49, 127.49, site, DType::F32).to(DType::I8);
}

CodeOperand operand(const Tensor& codes, std::int64_t tile_rows, std::int64_t columns,
                    std::uint32_t site) {
  CodeOperand x;
  x.codes = codes;
  x.tile_rows = tile_rows;
  x.scales = random_floats({(codes.size(0) + tile_rows - 1) / tile_rows, columns}, 1e-3, 1e-2, site,
                           DType::F32);
  return x;
}

bool same_bits(const Tensor& x, const Tensor& y) {
  const Tensor a = x.to(kCpu), b = y.to(kCpu);
  return std::memcmp(a.raw(), b.raw(), static_cast<std::size_t>(a.bytes())) == 0;
}

using Route = void (*)(const cuda::IntProduct&);
// The median time of `route`, or −1 where its bits are not those of `reference`.
double checked(int repeats, const cuda::IntProduct& p, Route route, Route reference) {
  cuda::IntProduct q = p;
  q.c = Tensor::full(p.c.shape(), 7.0, p.c.dtype(), kGpu);
  route(p);
  reference(q);
  if (!same_bits(p.c, q.c) && !std::getenv("NIBBLE_WRONG")) return -1;
  return median_ms(repeats, [&] { route(p); });
}

struct Row {
  std::int64_t m, n, k;
  bool wgrad;  // f32 results, both operands in groups
};

void measure(const Row& r, int repeats) {
  const double operations = 2.0 * static_cast<double>(r.m) * static_cast<double>(r.n) *
                            static_cast<double>(r.k) / 1e9;  // per millisecond: TOP/s
  const Tensor x = random_floats({r.m, r.k}, -1, 1, 1, DType::BF16),
               w = random_floats({r.n, r.k}, -1, 1, 2, DType::BF16);
  const DType out = r.wgrad ? DType::F32 : DType::BF16;
  Tensor c = Tensor::empty({r.m, r.n}, out, kGpu);
  const double bf16 = median_ms(repeats, [&] { ops::matmul_into(c, x, w.t(), false); });
  const Tensor a = random_codes(r.m, r.k, 3), b = random_codes(r.n, r.k, 4);
  const Tensor bias = r.wgrad ? Tensor() : random_floats({r.n}, -1, 1, 5, DType::F32);
  const cuda::IntProduct whole{c, operand(a, 1, 1, 6), operand(b, 1, 1, 7), r.k, r.k, bias, false};
  const auto grouped = [&](std::int64_t block) {
    const std::int64_t groups = (r.k + block - 1) / block;
    const cuda::IntProduct p{
        c,    operand(a, 1, groups, 8), operand(b, r.wgrad ? 1 : 128, groups, 9), r.k, block, bias,
        false};
    return checked(repeats, p, cuda::int_gemm_wgmma, cuda::int_gemm_tiles);
  };
  const double library = median_ms(repeats, [&] { cuda::int_gemm_library(whole); });
  const double row = checked(repeats, whole, cuda::int_gemm_wgmma, cuda::int_gemm_library);
  const double resident =
      r.k <= cuda::kMaxResidentDepth
          ? checked(repeats, whole, cuda::int_gemm_resident, cuda::int_gemm_library)
          : 0;
  const double group = grouped(128), longer = grouped(256);
  const auto cell = [&](double ms) {
    if (ms == 0) return std::string("-");
    return ms < 0 ? std::string("WRONG")
                  : fmt::format("{:.1f} us, {:.0f}, {:.2f}x", ms * 1e3, operations / ms, bf16 / ms);
  };
  fmt::print("| {}, {}, {}{} | {:.1f} us, {:.0f} | {} | {} | {} | {} | {} | {:.2f} |\n", r.m, r.n,
             r.k, r.wgrad ? " (wgrad)" : "", bf16 * 1e3, operations / bf16, cell(library),
             cell(row), cell(resident), cell(group), cell(longer), row / group);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const int repeats = argc > 1 ? std::atoi(argv[1]) : 15;
  if (cuda::device_count() == 0) {
    fmt::print(stderr, "int_gemm_bench: no GPU here\n");
    return 1;
  }
  fmt::print("{}; time, T(FL)OP/s, ratio to bf16\n\n", cuda::device_name(0));
  fmt::print(
      "| M, N, K | cuBLASLt bf16 | cuBLASLt int32 + scaling | row scales | row scales, resident | "
      "groups of 128 | groups of 256 | 128/row speed |\n|---|---|---|---|---|---|---|---|\n");
  const Row rows[] = {
      {32768, 2304, 768, false},  {32768, 768, 768, false},   {32768, 3072, 768, false},
      {32768, 768, 3072, false},  {32768, 768, 2304, false},  {768, 768, 32768, true},
      {2304, 768, 32768, true},   {3072, 768, 32768, true},   {768, 3072, 32768, true},
      {8192, 4800, 1600, false},  {8192, 1600, 1600, false},  {8192, 6400, 1600, false},
      {8192, 1600, 6400, false},  {1600, 6400, 8192, true},   {1600, 1600, 8192, true},
      {32768, 6400, 1600, false}, {32768, 1600, 6400, false}, {1600, 6400, 32768, true},
      {32768, 4096, 4096, false}, {4096, 4096, 4096, false},  {8192, 8192, 8192, false},
      {32768, 50304, 768, false}, {4800, 1600, 8192, true},   {6400, 1600, 8192, true},
      {1600, 1600, 16384, true},  {4800, 1600, 16384, true},  {1600, 6400, 16384, true},
      {6400, 1600, 16384, true},  {50304, 768, 2048, true}};
  const auto count = static_cast<int>(std::size(rows));
  const int first = argc > 2 ? std::atoi(argv[2]) : 0;
  const int last = argc > 3 ? std::atoi(argv[3]) : count - 1;
  for (int i = std::max(first, 0); i <= std::min(last, count - 1); ++i) measure(rows[i], repeats);
}
