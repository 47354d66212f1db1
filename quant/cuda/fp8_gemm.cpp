// cuda::fp8_gemm through cuBLASLt. Where scales are applied in its epilogue a product reads 1 byte
// a code and writes its result once; where they are not, sums pass through f32 scratch memory, by
// slabs of rows.
#include "quant/cuda/fp8_gemm.h"

#include <algorithm>
#include <array>
#include <atomic>

#include "quant/decoded_product.h"
#include "quant/product_route.h"
#include "tensor/cuda/gemm_lt.h"
#include "tensor/ops.h"

namespace nibble::cuda {
namespace {

// f32 sums in scratch memory (256 MiB).
constexpr std::int64_t kMaxSums = std::int64_t{64} << 20;

std::array<std::atomic<std::uint64_t>, 5> g_products{};

std::int64_t rows_of(const CodeOperand& x) { return x.codes.size(0); }

// Rows that may be strided, as the library wants them: none when they don't lie on 16 bytes.
bool is_result(const Tensor& c) {
  const std::int64_t stride = c.size(0) == 1 ? c.size(1) : c.strides()[0];
  return c.strides()[1] == 1 && stride >= c.size(1) &&
         alignment_of(c.raw(), bytes_of(c.dtype(), stride)) == 16;
}

struct Scaled {
  LtScaling scaling = LtScaling::None;
  Tensor a, b;
};
// c (+)= codes [begin, end) of a's and b's rows; scaled by `scales` and with `bias` where given.
// False, with nothing done, when the library has no algorithm.
bool multiply(Tensor& c, const CodeOperand& a, const CodeOperand& b, std::int64_t begin,
              std::int64_t end, const Scaled& scales, const Tensor& bias, bool accumulate,
              Accumulation accumulation) {
  const std::int64_t k = a.codes.size(1);
  LtProduct p;
  p.m = c.size(0), p.n = c.size(1), p.k = end - begin;
  p.a = {a.codes.dtype(), false, k, 0, 16};
  p.b = {b.codes.dtype(), true, k, 0, 16};
  p.c = {c.dtype(), false, p.m == 1 ? p.n : c.strides()[0], 0, 16};
  p.accumulate = accumulate;
  p.scaling = scales.scaling;
  p.fast = accumulation == Accumulation::Fast;
  if (bias) p.bias_alignment = alignment_of(bias.raw());
  return lt_multiply(
      p, {a.codes.raw() + begin, b.codes.raw() + begin, c.raw(), bias ? bias.raw() : nullptr,
          scales.a ? scales.a.raw() : nullptr, scales.b ? scales.b.raw() : nullptr});
}

// One scale for each of n rows, on 16 bytes.
Tensor row_scales(const CodeOperand& x) {
  const std::int64_t n = rows_of(x);
  const Tensor flat = x.scales.view({x.scales.numel()});
  const Tensor rows = flat.numel() == n ? flat : ops::contiguous(flat.expand({n}));
  return alignment_of(rows.raw()) == 16 ? rows : rows.clone();
}

// Scales of 1 × 128 codes, [k/128, rows], or of 128 × 128, in rows of a multiple of 16 bytes. An
// operand may have one for its whole contraction: every block's then.
Tensor block_scales(const CodeOperand& x) {
  const std::int64_t tiles = x.scales.size(0), blocks = x.codes.size(1) / 128;
  const Tensor s = x.scales.size(1) == blocks ? x.scales : x.scales.expand({tiles, blocks});
  if (x.tile_rows == 1) return ops::contiguous(s.t());
  if (blocks % 4 == 0) {
    const Tensor rows = ops::contiguous(s);
    return alignment_of(rows.raw()) == 16 ? rows : rows.clone();
  }
  Tensor padded = Tensor::zeros({tiles, (blocks + 3) / 4 * 4}, DType::F32, x.scales.device());
  padded.slice(1, 0, blocks).copy_from(s);
  return padded;
}

Scaled library_scales(const CodeOperand& a, const CodeOperand& b, Fp8Route route) {
  if (route == Fp8Route::TensorScales) return {LtScaling::Tensor, a.scales, b.scales};
  if (route == Fp8Route::RowScales) return {LtScaling::Rows, row_scales(a), row_scales(b)};
  const LtScaling scaling = a.tile_rows > 1   ? LtScaling::SquaresAndRuns
                            : b.tile_rows > 1 ? LtScaling::RunsAndSquares
                                              : LtScaling::Runs;
  return {scaling, block_scales(a), block_scales(b)};
}

// `route` is TensorScales, RowScales or BlockScales.
bool scaled_by_library(Tensor& c, const CodeOperand& a, const CodeOperand& b, Fp8Route route,
                       const Tensor& bias, bool accumulate, Accumulation accumulation) {
  const Scaled scales = library_scales(a, b, route);
  // Sums of 128 codes are promoted whatever is asked for.
  if (route == Fp8Route::BlockScales) accumulation = Accumulation::Full;
  const std::int64_t k = a.codes.size(1);
  // The library adds a bf16 bias only.
  if (is_result(c) && (!bias || bias.dtype() == DType::BF16))
    return multiply(c, a, b, 0, k, scales, bias, accumulate, accumulation);
  if (c.dtype() == DType::F32 && c.is_contiguous() && is_result(c) && !accumulate) {
    if (!multiply(c, a, b, 0, k, scales, {}, false, accumulation)) return false;
    ops::add_bias(c, bias);
    return true;
  }
  Tensor y = Tensor::empty(c.shape(), DType::F32, c.device());
  if (!multiply(y, a, b, 0, k, scales, {}, false, accumulation)) return false;
  store_product(c, y, bias, accumulate);
  return true;
}

CodeOperand rows_from(const CodeOperand& x, std::int64_t begin, std::int64_t end) {
  if (begin == 0 && end == rows_of(x)) return x;
  CodeOperand part = x;
  part.codes = x.codes.slice(0, begin, end);
  if (x.tile_rows < rows_of(x))
    part.scales = x.scales.slice(0, begin / x.tile_rows, (end + x.tile_rows - 1) / x.tile_rows);
  return part;
}

// Rows of c whose sums go through scratch memory at once: about equal slabs, so that none is small,
// of whole tiles of a's scales.
std::int64_t slab_rows(const CodeOperand& a, std::int64_t n) {
  const std::int64_t m = rows_of(a), slabs = (m * n + kMaxSums - 1) / kMaxSums;
  const std::int64_t rows = (m + slabs - 1) / slabs;
  if (rows >= m || a.tile_rows >= m) return rows;
  return std::min(m, (rows + a.tile_rows - 1) / a.tile_rows * a.tile_rows);
}

bool rescaled(Tensor& c, const CodeOperand& a, const CodeOperand& b, std::int64_t block,
              const Tensor& bias, bool accumulate, Accumulation accumulation) {
  const std::int64_t m = rows_of(a), n = rows_of(b), k = a.codes.size(1);
  const std::int64_t blocks = (k + block - 1) / block, slab = slab_rows(a, n);
  const Tensor scratch = Tensor::empty({slab, n}, DType::F32, c.device()),
               results = Tensor::empty({slab, n}, DType::F32, c.device());
  for (std::int64_t row = 0; row < m; row += slab) {
    const std::int64_t last = std::min(row + slab, m);
    const CodeOperand part = rows_from(a, row, last);
    Tensor sums = scratch.slice(0, 0, last - row), y = results.slice(0, 0, last - row);
    for (std::int64_t i = 0; i < blocks; ++i) {
      const std::int64_t begin = i * block, end = std::min(begin + block, k);
      if (!multiply(sums, part, b, begin, end, {}, {}, false, accumulation)) {
        NIBBLE_CHECK(row == 0 && i == 0, "fp8_gemm",
                     "cuBLASLt {} has no algorithm for the last [{}, {}] x [{}, {}]",
                     cublasLtGetVersion(), last - row, end - begin, end - begin, n);
        return false;
      }
      rescale_product(y, sums, part, b, i, blocks);
    }
    Tensor to = c.slice(0, row, last);
    store_product(to, y, bias, accumulate);
  }
  return true;
}

}  // namespace

std::uint64_t fp8_products(Fp8Route route) {
  return g_products[static_cast<std::size_t>(route)].load();
}

void fp8_gemm(Tensor& c, const CodeOperand& a, const CodeOperand& b, std::int64_t block,
              const Tensor& bias, bool accumulate, Accumulation accumulation) {
  if (c.numel() == 0) return;
  const Fp8Layout layout{c.size(0),       c.size(1),       a.codes.size(1), block,
                         a.codes.dtype(), b.codes.dtype(), a.tile_rows,     b.tile_rows};
  const bool on_16_bytes = alignment_of(a.codes.raw()) == 16 && alignment_of(b.codes.raw()) == 16;
  Fp8Route route = on_16_bytes ? fp8_route(layout) : Fp8Route::Decoded;
  if (route != Fp8Route::Rescaled && route != Fp8Route::Decoded &&
      !scaled_by_library(c, a, b, route, bias, accumulate, accumulation))
    route = Fp8Route::Rescaled;
  if (route == Fp8Route::Rescaled && !rescaled(c, a, b, block, bias, accumulate, accumulation))
    route = Fp8Route::Decoded;
  if (route == Fp8Route::Decoded) {
    detail::count_decoded_product();
    decoded_product(c, decoded_codes(a.codes), decoded_codes(b.codes), a, b, block, bias,
                    accumulate);
  }
  ++g_products[static_cast<std::size_t>(route)];
}

}  // namespace nibble::cuda
