#include <algorithm>
#include <optional>
#include <type_traits>

#include "tensor/biased_product.h"
#include "tensor/cpu/gemm.h"
#include "tensor/kernels.h"
#include "tensor/thread_pool.h"

namespace nibble::cpu {
namespace {

// Output tiles are chosen from the shapes alone, so the number of threads cannot change a bit.
struct Tiling {
  std::int64_t rows, cols;    // extents of a tile
  std::int64_t down, across;  // tiles
  std::int64_t grain;         // tiles a chunk, for many tiny products
};

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t split(std::int64_t extent, std::int64_t parts, std::int64_t multiple) {
  return divide_up(divide_up(extent, parts), multiple) * multiple;
}

Tiling choose_tiling(std::int64_t batch, std::int64_t m, std::int64_t n, std::int64_t k) {
  constexpr std::int64_t kRows = 256, kCols = 512;  // every tile packs its part of both operands
  constexpr std::int64_t kMinCols = 128, kTiles = 8, kMinWork = 1 << 20;
  const std::int64_t work = std::max<std::int64_t>(1, m * n * std::max<std::int64_t>(1, k));
  Tiling t{};
  t.rows = split(m, divide_up(m, kRows), 24);  // 24: rows of the register tile
  t.down = divide_up(m, t.rows);
  const std::int64_t wanted = std::min(kTiles, divide_up(batch * work, kMinWork));
  const std::int64_t parts = std::min(divide_up(wanted, batch * t.down), divide_up(n, kMinCols));
  t.cols = split(n, std::max(parts, divide_up(n, kCols)), 16);
  t.across = divide_up(n, t.cols);
  t.grain = std::max<std::int64_t>(1, kMinWork / divide_up(work, t.down * t.across));
  return t;
}

template <class T>
MatrixView<T> batch_matrix(const Tensor& x, std::int64_t index) {
  const Shape& s = x.strides();
  return {x.data<T>() + index * s[0], x.size(1), x.size(2), s[1], s[2]};
}

// A copy of x converted to f32, in the memory order of x.
MatrixView<float> widen(Tensor& buffer, const MatrixView<bfloat16>& x) {
  const bool by_rows = x.row_major();
  const std::int64_t outer = by_rows ? x.rows : x.cols, inner = by_rows ? x.cols : x.rows;
  float* const copy = buffer.data<float>();
  for (std::int64_t i = 0; i < outer; ++i) {
    const bfloat16* from = x.data + i * x.leading_stride();
    float* to = copy + i * inner;
    for (std::int64_t j = 0; j < inner; ++j) to[j] = from[j];
  }
  return {copy, x.rows, x.cols, by_rows ? inner : 1, by_rows ? 1 : inner};
}

constexpr std::int64_t kPanel = 1024;  // of K, widened at a time

// Tensors, because their memory is cached: fresh pages would cost more than the conversions.
struct Workspace {
  Tensor a, b, c;
  explicit Workspace(const Tiling& t, std::int64_t k)
      : a(Tensor::empty({t.rows, std::min(k, kPanel)})),
        b(Tensor::empty({std::min(k, kPanel), t.cols})),
        c(Tensor::empty({t.rows, t.cols})) {}
};

// bf16 operands: panels are widened, all of K is summed in f32, and the result, with its bias if
// there is one, is rounded once.
template <class Out>
void multiply_bf16(Out* c, std::int64_t c_stride, const MatrixView<bfloat16>& a,
                   const MatrixView<bfloat16>& b, const bfloat16* bias, bool accumulate,
                   Workspace& w) {
  const std::int64_t m = a.rows, n = b.cols, k = a.cols;
  float* const sums = w.c.data<float>();
  std::fill_n(sums, m * n, 0.0f);
  for (std::int64_t k0 = 0; k0 < k; k0 += kPanel) {
    const std::int64_t depth = std::min(kPanel, k - k0);
    gemm(sums, n, widen(w.a, a.block(0, k0, m, depth)), widen(w.b, b.block(k0, 0, depth, n)), true);
  }
  for (std::int64_t i = 0; i < m; ++i) {
    const float* from = sums + i * n;
    Out* to = c + i * c_stride;
    if (accumulate)
      for (std::int64_t j = 0; j < n; ++j) to[j] = Out(static_cast<float>(to[j]) + from[j]);
    else if (bias)
      for (std::int64_t j = 0; j < n; ++j) to[j] = Out(from[j] + static_cast<float>(bias[j]));
    else
      for (std::int64_t j = 0; j < n; ++j) to[j] = Out(from[j]);
  }
}

template <class Out, class In>
void run(Tensor& c, const Tensor& a, const Tensor& b, const In* bias, bool accumulate) {
  const std::int64_t batch = c.size(0), m = c.size(1), n = c.size(2), k = a.size(2);
  const Tiling t = choose_tiling(batch, m, n, k);
  const std::int64_t tiles = t.down * t.across, c_batch = c.strides()[0], c_row = c.strides()[1];
  Out* out = c.data<Out>();
  parallel_for(batch * tiles, t.grain, [&](std::int64_t begin, std::int64_t end) {
    std::optional<Workspace> workspace;
    if constexpr (std::is_same_v<In, bfloat16>) workspace.emplace(t, k);
    for (std::int64_t tile = begin; tile < end; ++tile) {
      const std::int64_t index = tile / tiles;
      const std::int64_t i = tile % tiles / t.across * t.rows, j = tile % t.across * t.cols;
      const std::int64_t rows = std::min(t.rows, m - i), cols = std::min(t.cols, n - j);
      Out* const to = out + index * c_batch + i * c_row + j;
      const MatrixView<In> lhs = batch_matrix<In>(a, index).block(i, 0, rows, k);
      const MatrixView<In> rhs = batch_matrix<In>(b, index).block(0, j, k, cols);
      if constexpr (std::is_same_v<In, bfloat16>)
        multiply_bf16(to, c_row, lhs, rhs, bias ? bias + j : nullptr, accumulate, *workspace);
      else
        gemm(to, c_row, lhs, rhs, accumulate);
      if constexpr (!std::is_same_v<In, bfloat16>)
        for (std::int64_t r = 0; bias && r < rows; ++r)
          for (std::int64_t s = 0; s < cols; ++s) to[r * c_row + s] += bias[j + s];
    }
  });
}

}  // namespace

void matmul(Tensor& c, const Tensor& a, const Tensor& b, bool accumulate) {
  if (c.numel() == 0) return;
  if (c.dtype() == DType::F32 && a.dtype() == DType::BF16) {
    run<float, bfloat16>(c, a, b, nullptr, accumulate);
    return;
  }
  NIBBLE_FLOAT_SWITCH(a.dtype(), "matmul", T, run<T, T>(c, a, b, nullptr, accumulate));
}

void matmul_bias(Tensor& c, const Tensor& a, const Tensor& b, const Tensor& bias) {
  if (c.numel() == 0) return;
  NIBBLE_FLOAT_SWITCH(a.dtype(), "matmul_bias", T, run<T, T>(c, a, b, bias.data<T>(), false));
}

}  // namespace nibble::cpu
