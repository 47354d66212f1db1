// cuda::int_gemm: runs the route that the layout has, and the one through cuBLASLt.
#include "quant/cuda/int_gemm.h"

#include <algorithm>

#include "tensor/cuda/gemm_lt.h"

namespace nibble::cuda {
namespace {

// int32 sums in scratch memory (256 MiB); larger results go by slabs of rows.
constexpr std::int64_t kMaxSums = std::int64_t{64} << 20;

}  // namespace

void int_gemm_library(const IntProduct& p) {
  const Tensor a = padded_codes(p.a, p.k), b = padded_codes(p.b, p.k);
  const std::int64_t m = p.m(), n = p.n(), k = a.size(1);
  // Equal slabs, because the library wants more than a few rows in each.
  const std::int64_t slabs = (m * n + kMaxSums - 1) / kMaxSums;
  const Tensor scratch = Tensor::empty({(m + slabs - 1) / slabs, n}, DType::I32, p.c.device());
  LtProduct product;
  product.n = n;
  product.k = k;
  product.a = {DType::I8, false, k, 0, 16};
  product.b = {DType::I8, true, k, 0, 16};
  product.c = {DType::I32, false, n, 0, 16};
  for (std::int64_t slab = 0; slab < slabs; ++slab) {
    const std::int64_t row = m * slab / slabs, end = m * (slab + 1) / slabs;
    Tensor sums = scratch.slice(0, 0, end - row);
    product.m = end - row;
    const bool served =
        lt_multiply(product, {a.data<std::int8_t>() + row * k, b.raw(), sums.raw(), nullptr});
    NIBBLE_CHECK(served, "int_gemm",
                 "cuBLASLt {} has no int8 algorithm for [{}, {}] x [{}, {}], which it documents",
                 cublasLtGetVersion(), product.m, k, k, n);
    scale_sums(p, sums, row);
  }
}

void int_gemm(Tensor& c, const CodeOperand& a, const CodeOperand& b, std::int64_t k,
              std::int64_t block, const Tensor& bias, bool accumulate) {
  const IntProduct p{c, a, b, k, std::max<std::int64_t>(block, 1), bias, accumulate};
  if (p.m() == 0 || p.n() == 0) return;
  NIBBLE_CHECK(std::max({p.m(), p.n(), k}) < INT32_MAX, "int_gemm",
               "got [{}, {}] x [{}, {}], expected extents below 2^31", p.m(), k, k, p.n());
  const IntGemmRoute route =
      int_gemm_route({p.m(), p.n(), k, p.block, a.codes.dtype(), b.codes.dtype(),
                      a.zeros.defined() || b.zeros.defined()});
  switch (route) {
    case IntGemmRoute::Library: return int_gemm_library(p);
    case IntGemmRoute::Wgmma: return int_gemm_wgmma(p);
    case IntGemmRoute::Tiles: return int_gemm_tiles(p);
    case IntGemmRoute::General: return int_gemm_general(p);
  }
}

}  // namespace nibble::cuda
