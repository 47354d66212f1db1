// Integer products on the CPU: codes are widened to int16 pairs and interleaved in panels, register
// tiles of exact int32 sums are rescaled while still in L1. Tiles are independent, so the number of
// threads cannot change a bit.
#include "quant/cpu/int_gemm.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "quant/kernels.h"
#include "tensor/thread_pool.h"

namespace nibble::cpu {
namespace {

constexpr std::int64_t kTile = kTileRows * kTileCols;
// A task: 96 rows of a (their panels stay in L2) by 512 columns. `a` is packed by slabs of rows so
// that the scratch memory stays small next to the activations.
constexpr std::int64_t kTaskRows = 24, kTaskCols = 32;  // panels
constexpr std::int64_t kSlab = 3072;  // rows, a multiple of kTaskRows · kTileRows

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// The contraction axis: blocks of codes, each padded to whole pairs.
struct Depth {
  std::int64_t k, block;

  std::int64_t blocks() const { return ceil_div(k, block); }
  std::int64_t codes(std::int64_t index) const { return std::min(block, k - index * block); }
  std::int64_t pairs(std::int64_t index) const { return ceil_div(codes(index), 2); }
  std::int64_t first_pair(std::int64_t index) const { return index * ceil_div(block, 2); }
  std::int64_t all_pairs() const {
    return k == 0 ? 0 : first_pair(blocks() - 1) + pairs(blocks() - 1);
  }
};

void widen(std::int16_t* out, const CodeOperand& x, std::int64_t row, std::int64_t begin,
           std::int64_t count) {
  const std::int64_t start = row * x.codes.size(1);
  if (x.codes.dtype() == DType::I8) {
    const std::int8_t* codes = x.codes.data<std::int8_t>() + start + begin;
    for (std::int64_t i = 0; i < count; ++i) out[i] = codes[i];
  } else if (x.codes.dtype() == DType::U8) {
    const std::uint8_t* codes = x.codes.data<std::uint8_t>() + start + begin;
    for (std::int64_t i = 0; i < count; ++i) out[i] = codes[i];
  } else {
    const std::uint8_t* bytes = x.codes.data<std::uint8_t>() + start / 2;
    const int sign = x.is_signed ? 8 : 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t at = begin + i;
      const int nibble = (bytes[at / 2] >> (4 * (at & 1))) & 15;
      out[i] = static_cast<std::int16_t>((nibble ^ sign) - sign);  // extends the sign
    }
  }
}

// Rows of an operand as panels, with what the rescaling needs of each row in each contraction block
// (rows padded to whole panels, so that a tile reads plain runs).
struct Packed {
  Tensor words;   // I32 [panels, pairs, rows of a panel]
  Tensor scales;  // F32 [blocks, padded rows]
  Tensor zeros;   // F64 [blocks, padded rows]: zero points; undefined for symmetric products
  Tensor sums;    // F64 [blocks, padded rows]: sums of codes, likewise
};

// Interleaves `count` codes at `words`, one word each `stride`; returns their sum.
std::int64_t pack_run(std::int32_t* words, std::int64_t stride, const CodeOperand& x,
                      std::int64_t row, std::int64_t begin, std::int64_t count) {
  constexpr std::int64_t kChunk = 256;
  std::array<std::int16_t, kChunk> codes;
  std::int64_t sum = 0;
  for (std::int64_t at = 0; at < count; at += kChunk) {
    const std::int64_t length = std::min(kChunk, count - at);
    widen(codes.data(), x, row, begin + at, length);
    if (length % 2 != 0) codes[static_cast<std::size_t>(length)] = 0;
    std::int32_t part = 0;
    for (std::int64_t i = 0; i < length; ++i) part += codes[static_cast<std::size_t>(i)];
    sum += part;
    for (std::int64_t i = 0; i < length; i += 2, words += stride) {
      const std::uint32_t even = static_cast<std::uint16_t>(codes[static_cast<std::size_t>(i)]);
      const std::uint32_t odd = static_cast<std::uint16_t>(codes[static_cast<std::size_t>(i + 1)]);
      *words = static_cast<std::int32_t>(even | (odd << 16));
    }
  }
  return sum;
}

// Rows [begin, end) of x.
Packed pack(const CodeOperand& x, std::int64_t begin, std::int64_t end, std::int64_t panel_rows,
            const Depth& depth, bool symmetric) {
  const std::int64_t panels = ceil_div(end - begin, panel_rows), padded = panels * panel_rows;
  const std::int64_t pairs = depth.all_pairs(), blocks = depth.blocks();
  Packed packed;
  packed.words = Tensor::empty({panels, pairs, panel_rows}, DType::I32);
  packed.scales = Tensor::empty({blocks, padded}, DType::F32);
  if (!symmetric) {
    packed.zeros = Tensor::empty({blocks, padded}, DType::F64);
    packed.sums = Tensor::empty({blocks, padded}, DType::F64);
  }
  std::int32_t* words = packed.words.data<std::int32_t>();
  float* scales = packed.scales.data<float>();
  double* zeros = symmetric ? nullptr : packed.zeros.data<double>();
  double* sums = symmetric ? nullptr : packed.sums.data<double>();
  const std::int64_t columns = x.scales.size(1);
  const float* from = x.scales.data<float>();
  const float* zeros_from = x.zeros ? x.zeros.data<float>() : nullptr;
  parallel_for(panels, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t p = first; p < last; ++p) {
      for (std::int64_t r = 0; r < panel_rows; ++r) {
        const std::int64_t at = p * panel_rows + r;
        // Padding repeats the last row; its results are never stored.
        const std::int64_t row = std::min(begin + at, end - 1);
        std::int32_t* to = words + p * pairs * panel_rows + r;
        for (std::int64_t b = 0; b < blocks; ++b) {
          const std::int64_t sum = pack_run(to + depth.first_pair(b) * panel_rows, panel_rows, x,
                                            row, b * depth.block, depth.codes(b));
          const std::int64_t scale = row / x.tile_rows * columns + (columns == 1 ? 0 : b);
          scales[b * padded + at] = from[scale];
          if (symmetric) continue;
          sums[b * padded + at] = static_cast<double>(sum);
          zeros[b * padded + at] = zeros_from ? static_cast<double>(zeros_from[scale]) : 0.0;
        }
      }
    }
  });
  return packed;
}

struct Product {
  Packed packed_a, packed_b;
  Depth depth;
  std::int64_t m, n, slab;  // slab: a's first packed row

  const std::int32_t* panel(const Packed& x, std::int64_t index, std::int64_t rows) const {
    return x.words.data<std::int32_t>() + index * depth.all_pairs() * rows;
  }
  void block_sums(float* part, std::int64_t row, std::int64_t col, std::int64_t block) const;
  void tile(float* f, std::int64_t row, std::int64_t col) const;
};

template <class T>
const T* row_values(const Tensor& x, std::int64_t block, std::int64_t row) {
  return x.data<T>() + block * x.size(1) + row;
}

// Exact sums over one block, however long.
void exact_sums(std::int64_t* sums, const std::int32_t* a, const std::int32_t* b,
                std::int64_t pairs) {
  std::array<std::int32_t, kTile> part;
  std::fill_n(sums, kTile, 0);
  for (std::int64_t p = 0; p < pairs; p += kMaxDepth / 2) {
    dot_tile(part.data(), a + p * kTileRows, b + p * kTileCols, std::min(kMaxDepth / 2, pairs - p));
    for (std::size_t i = 0; i < kTile; ++i) sums[i] += part[i];
  }
}

// One block of a tile, with the zero points' share: Σ (qa + za)(qb + zb).
void Product::block_sums(float* part, std::int64_t row, std::int64_t col,
                         std::int64_t block) const {
  const std::int64_t first = depth.first_pair(block), pairs = depth.pairs(block);
  const std::int32_t* pa = panel(packed_a, (row - slab) / kTileRows, kTileRows) + first * kTileRows;
  const std::int32_t* pb = panel(packed_b, col / kTileCols, kTileCols) + first * kTileCols;
  if (pairs <= kMaxDepth / 2 && !packed_a.zeros) {
    std::array<std::int32_t, kTile> sums;
    dot_tile(sums.data(), pa, pb, pairs);
    for (std::size_t i = 0; i < kTile; ++i) part[i] = static_cast<float>(sums[i]);
    return;
  }
  std::array<std::int64_t, kTile> sums;
  exact_sums(sums.data(), pa, pb, pairs);
  if (!packed_a.zeros) {
    for (std::size_t i = 0; i < kTile; ++i) part[i] = static_cast<float>(sums[i]);
    return;
  }
  const double* za = row_values<double>(packed_a.zeros, block, row - slab);
  const double* zb = row_values<double>(packed_b.zeros, block, col);
  const double* sums_a = row_values<double>(packed_a.sums, block, row - slab);
  const double* sums_b = row_values<double>(packed_b.sums, block, col);
  const auto codes = static_cast<double>(depth.codes(block));
  for (std::int64_t i = 0; i < kTileRows; ++i)
    for (std::int64_t j = 0; j < kTileCols; ++j) {
      double sum = static_cast<double>(sums[static_cast<std::size_t>(i * kTileCols + j)]);
      sum += za[i] * sums_b[j];
      sum += zb[j] * sums_a[i];
      sum += za[i] * zb[j] * codes;
      part[i * kTileCols + j] = static_cast<float>(sum);
    }
}

// The rescaled tile at (row, col): f [kTileRows, kTileCols].
void Product::tile(float* f, std::int64_t row, std::int64_t col) const {
  const std::int64_t blocks = depth.blocks();
  const std::int64_t segment = segment_blocks(m, n, depth.k, depth.block);
  std::fill_n(f, kTile, 0.0f);
  std::array<float, kTile> part, earlier;  // sums of earlier segments
  for (std::int64_t block = 0; block < blocks; ++block) {
    if (block == segment)
      std::copy_n(f, kTile, earlier.data());
    else if (block > segment && block % segment == 0)
      for (std::size_t i = 0; i < kTile; ++i) earlier[i] += f[i];
    if (block > 0 && block % segment == 0) std::fill_n(f, kTile, 0.0f);
    block_sums(part.data(), row, col, block);
    const float* sa = row_values<float>(packed_a.scales, block, row - slab);
    const float* sb = row_values<float>(packed_b.scales, block, col);
    for (std::int64_t i = 0; i < kTileRows; ++i)
      for (std::int64_t j = 0; j < kTileCols; ++j) {
        const std::int64_t at = i * kTileCols + j;
        const float y = part[static_cast<std::size_t>(at)];
        f[at] = blocks == 1 ? y * sa[i] * sb[j] : std::fma(y, sa[i] * sb[j], f[at]);
      }
  }
  if (blocks > segment)
    for (std::size_t i = 0; i < kTile; ++i) f[i] = earlier[i] + f[i];
}

template <class T>
void store(T* c, std::int64_t stride, const float* f, const float* bias, std::int64_t rows,
           std::int64_t cols, bool accumulate) {
  for (std::int64_t i = 0; i < rows; ++i, c += stride, f += kTileCols)
    for (std::int64_t j = 0; j < cols; ++j) {
      const float y = bias ? f[j] + bias[j] : f[j];
      c[j] = T(accumulate ? static_cast<float>(c[j]) + y : y);
    }
}

template <class T>
void run(T* c, std::int64_t stride, const Product& p, std::int64_t slab_end, const float* bias,
         bool accumulate) {
  constexpr std::int64_t kRows = kTaskRows * kTileRows, kCols = kTaskCols * kTileCols;
  const std::int64_t down = ceil_div(slab_end - p.slab, kRows), across = ceil_div(p.n, kCols);
  parallel_for(down * across, 1, [&](std::int64_t first, std::int64_t last) {
    std::array<float, kTile> f;
    for (std::int64_t task = first; task < last; ++task) {
      const std::int64_t row0 = p.slab + task % down * kRows, col0 = task / down * kCols;
      const std::int64_t row1 = std::min(row0 + kRows, slab_end),
                         col1 = std::min(col0 + kCols, p.n);
      for (std::int64_t col = col0; col < col1; col += kTileCols)
        for (std::int64_t row = row0; row < row1; row += kTileRows) {
          p.tile(f.data(), row, col);
          store(c + row * stride + col, stride, f.data(), bias ? bias + col : nullptr,
                std::min(kTileRows, row1 - row), std::min(kTileCols, col1 - col), accumulate);
        }
    }
  });
}

// A panel must not straddle two slabs or tasks.
static_assert(kSlab % (kTaskRows * kTileRows) == 0);

}  // namespace

void int_gemm(Tensor& c, const CodeOperand& a, const CodeOperand& b, std::int64_t k,
              std::int64_t block, const Tensor& bias, bool accumulate) {
  const std::int64_t m = c.size(0), n = c.size(1);
  if (m == 0 || n == 0) return;
  const Depth depth{k, std::max<std::int64_t>(block, 1)};
  const bool symmetric = !a.zeros && !b.zeros;
  Product p{{}, pack(b, 0, n, kTileCols, depth, symmetric), depth, m, n, 0};
  const float* add = bias ? bias.data<float>() : nullptr;
  for (; p.slab < m; p.slab += kSlab) {
    const std::int64_t end = std::min(p.slab + kSlab, m);
    p.packed_a = pack(a, p.slab, end, kTileRows, depth, symmetric);
    if (c.dtype() == DType::BF16)
      run(c.data<bfloat16>(), c.strides()[0], p, end, add, accumulate);
    else
      run(c.data<float>(), c.strides()[0], p, end, add, accumulate);
  }
}

void rescale_product(Tensor& f, const Tensor& part, const CodeOperand& a, const CodeOperand& b,
                     std::int64_t index, std::int64_t blocks) {
  const std::int64_t n = f.size(1);
  const std::int64_t columns_a = a.scales.size(1), columns_b = b.scales.size(1);
  const float* scales_a = a.scales.data<float>() + (columns_a == 1 ? 0 : index);
  const float* scales_b = b.scales.data<float>() + (columns_b == 1 ? 0 : index);
  const float* parts = part.data<float>();
  float* out = f.data<float>();
  parallel_for(f.size(0), 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const float sa = scales_a[i / a.tile_rows * columns_a];
      for (std::int64_t j = 0; j < n; ++j) {
        const float sb = scales_b[j / b.tile_rows * columns_b], y = parts[i * n + j];
        float& to = out[i * n + j];
        to = blocks == 1 ? y * sa * sb : std::fma(y, sa * sb, index == 0 ? 0.0f : to);
      }
    }
  });
}

}  // namespace nibble::cpu
