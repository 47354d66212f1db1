// Integer products on the CPU: codes are interleaved in panels, register tiles (int_tile.cpp) of
// exact int32 sums are rescaled while still in L1. Tiles are independent, so the number of threads
// cannot change a bit; sums are exact, so neither can the kind of tile.
#include "quant/cpu/int_gemm.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "quant/kernels.h"
#include "quant/segments.h"
#include "tensor/thread_pool.h"

namespace nibble::cpu {
namespace {

// A task: 96 rows of a (their panels stay in L2) by 512 columns. `a` is packed by slabs of rows so
// that the scratch memory stays small next to the activations.
constexpr std::int64_t kTaskRows = 96, kTaskCols = 512;
constexpr std::int64_t kSlab = 3072;  // rows
// Bytes of a word are signed in a and unsigned in b: codes of the other kind are moved by this.
constexpr int kOffset = 128;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// The contraction axis: blocks of codes, each padded to whole words.
struct Depth {
  std::int64_t k, block, per_word;

  std::int64_t blocks() const { return ceil_div(k, block); }
  std::int64_t codes(std::int64_t index) const { return std::min(block, k - index * block); }
  std::int64_t words(std::int64_t index) const { return ceil_div(codes(index), per_word); }
  std::int64_t first_word(std::int64_t index) const { return index * ceil_div(block, per_word); }
  std::int64_t all_words() const {
    return k == 0 ? 0 : first_word(blocks() - 1) + words(blocks() - 1);
  }
};

template <class Int>
void widen(Int* out, const CodeOperand& x, std::int64_t row, std::int64_t begin,
           std::int64_t count) {
  const std::int64_t start = row * x.codes.size(1);
  if (x.codes.dtype() == DType::I8) {
    const std::int8_t* codes = x.codes.data<std::int8_t>() + start + begin;
    for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<Int>(codes[i]);
  } else if (x.codes.dtype() == DType::U8) {
    const std::uint8_t* codes = x.codes.data<std::uint8_t>() + start + begin;
    for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<Int>(codes[i]);
  } else {
    const std::uint8_t* bytes = x.codes.data<std::uint8_t>() + start / 2;
    const int sign = x.is_signed ? 8 : 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t at = begin + i;
      const int nibble = (bytes[at / 2] >> (4 * (at & 1))) & 15;
      out[i] = static_cast<Int>((nibble ^ sign) - sign);  // extends the sign
    }
  }
}

enum class Side : std::uint8_t { A, B };

// What is added to the codes of an operand so that they fit the bytes of its side.
int offset_of(const CodeOperand& x, Side side, std::int64_t per_word) {
  if (per_word == 2) return 0;
  if (side == Side::A) return x.codes.dtype() == DType::U8 ? -kOffset : 0;
  const bool is_signed =
      x.codes.dtype() == DType::I8 || (x.codes.dtype() == DType::U4x2 && x.is_signed);
  return is_signed ? kOffset : 0;
}

// Rows of an operand as panels, with what the rescaling needs of each row in each contraction block
// (rows padded to whole panels, so that a tile reads plain runs).
struct Packed {
  Tensor words;                    // I32 [panels, words, rows of a panel]
  Tensor scales;                   // F32 [blocks, padded rows]
  Tensor zeros;                    // F64 [blocks, padded rows]: zero points, if there are any
  std::vector<std::int64_t> sums;  // [blocks, padded rows]: sums of codes, where they are needed
  int offset = 0;                  // was added to the codes
};

// Interleaves `count` codes at `words`, one word each `stride`; returns their sum if asked to.
template <class Int>
std::int64_t pack_run(std::int32_t* words, std::int64_t stride, const CodeOperand& x, int offset,
                      std::int64_t row, std::int64_t begin, std::int64_t count, bool want_sum) {
  constexpr std::int64_t kChunk = 256, kPerWord = 4 / static_cast<std::int64_t>(sizeof(Int));
  std::array<Int, kChunk> codes;
  std::int64_t sum = 0;
  for (std::int64_t at = 0; at < count; at += kChunk) {
    const std::int64_t length = std::min(kChunk, count - at);
    widen(codes.data(), x, row, begin + at, length);
    if (want_sum) {
      std::int32_t part = 0;
      const int low = x.codes.dtype() == DType::U8 && sizeof(Int) == 1 ? 256 : 0;
      for (std::int64_t i = 0; i < length; ++i) {
        const int code = codes[static_cast<std::size_t>(i)];
        part += code < 0 ? code + low : code;  // bytes of U8 codes were read as signed ones
      }
      sum += part;
    }
    for (std::int64_t i = 0; i < length; ++i)
      codes[static_cast<std::size_t>(i)] =
          static_cast<Int>(codes[static_cast<std::size_t>(i)] + offset);
    for (std::int64_t i = length; i % kPerWord != 0; ++i) codes[static_cast<std::size_t>(i)] = 0;
    for (std::int64_t i = 0; i < length; i += kPerWord, words += stride)
      std::memcpy(words, codes.data() + i, sizeof(*words));
  }
  return sum;
}

struct Packing {
  Side side;
  std::int64_t begin, end;  // rows
  std::int64_t panel_rows;
  bool zeros;  // the product has zero points
  bool sums;   // of codes: for zero points, or against the other side's offset
};

Packed pack(const CodeOperand& x, const Depth& depth, const Packing& how) {
  const std::int64_t rows = how.panel_rows, panels = ceil_div(how.end - how.begin, rows);
  const std::int64_t words = depth.all_words(), blocks = depth.blocks(), padded = panels * rows;
  Packed packed;
  packed.words = Tensor::empty({panels, words, rows}, DType::I32);
  packed.scales = Tensor::empty({blocks, padded}, DType::F32);
  packed.offset = offset_of(x, how.side, depth.per_word);
  if (how.zeros) packed.zeros = Tensor::empty({blocks, padded}, DType::F64);
  if (how.sums) packed.sums.resize(static_cast<std::size_t>(blocks * padded));
  std::int32_t* out = packed.words.data<std::int32_t>();
  float* scales = packed.scales.data<float>();
  double* zeros = how.zeros ? packed.zeros.data<double>() : nullptr;
  const std::int64_t columns = x.scales.size(1);
  const float* from = x.scales.data<float>();
  const float* zeros_from = x.zeros ? x.zeros.data<float>() : nullptr;
  const auto run = depth.per_word == 2 ? pack_run<std::int16_t> : pack_run<std::int8_t>;
  parallel_for(panels, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t p = first; p < last; ++p)
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t at = p * rows + r;
        // Padding repeats the last row; its results are never stored.
        const std::int64_t row = std::min(how.begin + at, how.end - 1);
        std::int32_t* to = out + p * words * rows + r;
        for (std::int64_t b = 0; b < blocks; ++b) {
          const std::int64_t sum = run(to + depth.first_word(b) * rows, rows, x, packed.offset, row,
                                       b * depth.block, depth.codes(b), how.sums);
          const std::int64_t scale = row / x.tile_rows * columns + (columns == 1 ? 0 : b);
          scales[b * padded + at] = from[scale];
          if (how.sums) packed.sums[static_cast<std::size_t>(b * padded + at)] = sum;
          if (zeros)
            zeros[b * padded + at] = zeros_from ? static_cast<double>(zeros_from[scale]) : 0.0;
        }
      }
  });
  return packed;
}

using Tile32 = std::array<std::int32_t, kMaxTile>;
using Tile64 = std::array<std::int64_t, kMaxTile>;
using TileF = std::array<float, kMaxTile>;

struct Product {
  const IntTile& kind;
  Packed packed_a, packed_b;
  Depth depth;
  Segments segments;
  std::int64_t n, slab;  // slab: a's first packed row

  std::int64_t size() const { return kind.rows * kind.cols; }
  const std::int32_t* panel(const Packed& x, std::int64_t index, std::int64_t rows) const {
    return x.words.data<std::int32_t>() + index * depth.all_words() * rows;
  }
  template <class Int>
  void take_offsets(Int* sums, std::int64_t row, std::int64_t col, std::int64_t block) const;
  bool short_sums(std::int64_t block) const {
    return depth.words(block) <= kMaxDepth / kind.codes && !packed_a.zeros;
  }
  void dot(std::int32_t* sums, std::int64_t row, std::int64_t col, std::int64_t block) const;
  void block_sums(float* part, std::int64_t row, std::int64_t col, std::int64_t block) const;
  void whole_tile(float* f, std::int64_t row, std::int64_t col) const;
  void tile(float* f, std::int64_t row, std::int64_t col) const;
};

template <class T>
const T* row_values(const Tensor& x, std::int64_t block, std::int64_t row) {
  return x.data<T>() + block * x.size(1) + row;
}

const std::int64_t* row_sums(const Packed& x, std::int64_t block, std::int64_t row) {
  return x.sums.data() + block * x.scales.size(1) + row;
}

// Exact sums over one block, however long.
void exact_sums(const IntTile& t, Tile64& sums, const std::int32_t* a, const std::int32_t* b,
                std::int64_t words) {
  Tile32 part;
  const std::int64_t most = kMaxDepth / t.codes;
  std::fill_n(sums.data(), t.rows * t.cols, 0);
  for (std::int64_t w = 0; w < words; w += most) {
    t.dot(part.data(), a + w * t.rows, b + w * t.cols, std::min(most, words - w));
    for (std::int64_t i = 0; i < t.rows * t.cols; ++i)
      sums[static_cast<std::size_t>(i)] += part[static_cast<std::size_t>(i)];
  }
}

// From Σ (qa + oa)(qb + ob), as the bytes have it, to Σ qa·qb:
// the former − ob·Σ(qa + oa) − oa·Σ qb. One of the two terms vanishes more often than not.
template <class Int>
void Product::take_offsets(Int* sums, std::int64_t row, std::int64_t col,
                           std::int64_t block) const {
  const std::int64_t oa = packed_a.offset, ob = packed_b.offset, codes = depth.codes(block);
  if (ob != 0) {
    const std::int64_t* sums_a = row_sums(packed_a, block, row - slab);
    for (std::int64_t i = 0; i < kind.rows; ++i) {
      const Int moved = static_cast<Int>(ob * (sums_a[i] + oa * codes));
      for (std::int64_t j = 0; j < kind.cols; ++j) sums[i * kind.cols + j] -= moved;
    }
  }
  if (oa != 0) {
    const std::int64_t* sums_b = row_sums(packed_b, block, col);
    for (std::int64_t i = 0; i < kind.rows; ++i)
      for (std::int64_t j = 0; j < kind.cols; ++j)
        sums[i * kind.cols + j] -= static_cast<Int>(oa * sums_b[j]);
  }
}

// Σ qa·qb over a block of short_sums.
void Product::dot(std::int32_t* sums, std::int64_t row, std::int64_t col,
                  std::int64_t block) const {
  const std::int64_t first = depth.first_word(block);
  kind.dot(sums, panel(packed_a, (row - slab) / kind.rows, kind.rows) + first * kind.rows,
           panel(packed_b, col / kind.cols, kind.cols) + first * kind.cols, depth.words(block));
  take_offsets(sums, row, col, block);
}

// One block of a tile, with the zero points' share: Σ (qa + za)(qb + zb).
void Product::block_sums(float* part, std::int64_t row, std::int64_t col,
                         std::int64_t block) const {
  if (short_sums(block)) {
    Tile32 sums;
    dot(sums.data(), row, col, block);
    for (std::int64_t i = 0; i < size(); ++i)
      part[i] = static_cast<float>(sums[static_cast<std::size_t>(i)]);
    return;
  }
  const std::int64_t first = depth.first_word(block);
  Tile64 sums;
  exact_sums(kind, sums, panel(packed_a, (row - slab) / kind.rows, kind.rows) + first * kind.rows,
             panel(packed_b, col / kind.cols, kind.cols) + first * kind.cols, depth.words(block));
  take_offsets(sums.data(), row, col, block);
  if (!packed_a.zeros) {
    for (std::int64_t i = 0; i < size(); ++i)
      part[i] = static_cast<float>(sums[static_cast<std::size_t>(i)]);
    return;
  }
  const double* za = row_values<double>(packed_a.zeros, block, row - slab);
  const double* zb = row_values<double>(packed_b.zeros, block, col);
  const std::int64_t* sums_a = row_sums(packed_a, block, row - slab);
  const std::int64_t* sums_b = row_sums(packed_b, block, col);
  const auto codes = static_cast<double>(depth.codes(block));
  for (std::int64_t i = 0; i < kind.rows; ++i)
    for (std::int64_t j = 0; j < kind.cols; ++j) {
      double sum = static_cast<double>(sums[static_cast<std::size_t>(i * kind.cols + j)]);
      sum += za[i] * static_cast<double>(sums_b[j]);
      sum += zb[j] * static_cast<double>(sums_a[i]);
      sum += za[i] * zb[j] * codes;
      part[i * kind.cols + j] = static_cast<float>(sum);
    }
}

// tile() for one block of short sums, in one pass: at K = 768 more of them take a tenth of the dot
// product's time.
void Product::whole_tile(float* f, std::int64_t row, std::int64_t col) const {
  Tile32 sums;
  dot(sums.data(), row, col, 0);
  const float* sa = row_values<float>(packed_a.scales, 0, row - slab);
  const float* sb = row_values<float>(packed_b.scales, 0, col);
  const std::int32_t* y = sums.data();
  for (std::int64_t i = 0; i < kind.rows; ++i, f += kind.cols, y += kind.cols) {
    const float left = sa[i];
    for (std::int64_t j = 0; j < kind.cols; ++j) f[j] = static_cast<float>(y[j]) * left * sb[j];
  }
}

// The rescaled tile at (row, col): f [rows, cols] of the kind.
void Product::tile(float* f, std::int64_t row, std::int64_t col) const {
  const std::int64_t blocks = depth.blocks();
  if (blocks == 1 && short_sums(0)) return whole_tile(f, row, col);
  const std::uint32_t place =
      segments.tile_of(static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(col));
  const std::int64_t first = segments.end(place, 0);
  std::int64_t stop = first;  // of the segment
  const auto each = [&](auto&& body) {
    for (std::int64_t i = 0; i < size(); ++i) body(static_cast<std::size_t>(i));
  };
  std::fill_n(f, size(), 0.0f);
  TileF part, earlier;  // sums of earlier segments
  for (std::int64_t block = 0; block < blocks; ++block) {
    if (block == stop) {
      if (block == first)
        std::copy_n(f, size(), earlier.data());
      else
        each([&](std::size_t i) { earlier[i] += f[i]; });
      std::fill_n(f, size(), 0.0f);
      stop = segments.end(place, static_cast<std::uint32_t>(block));
    }
    block_sums(part.data(), row, col, block);
    const float* sa = row_values<float>(packed_a.scales, block, row - slab);
    const float* sb = row_values<float>(packed_b.scales, block, col);
    for (std::int64_t i = 0; i < kind.rows; ++i) {
      float* to = f + i * kind.cols;
      const float* y = part.data() + i * kind.cols;
      if (blocks == 1)
        for (std::int64_t j = 0; j < kind.cols; ++j) to[j] = y[j] * sa[i] * sb[j];
      else
        for (std::int64_t j = 0; j < kind.cols; ++j) to[j] = std::fma(y[j], sa[i] * sb[j], to[j]);
    }
  }
  if (blocks > first) each([&](std::size_t i) { f[i] = earlier[i] + f[i]; });
}

template <class T>
void store(T* c, std::int64_t stride, const float* f, std::int64_t f_stride, const float* bias,
           std::int64_t rows, std::int64_t cols, bool accumulate) {
  for (std::int64_t i = 0; i < rows; ++i, c += stride, f += f_stride)
    for (std::int64_t j = 0; j < cols; ++j) {
      const float y = bias ? f[j] + bias[j] : f[j];
      c[j] = T(accumulate ? static_cast<float>(c[j]) + y : y);
    }
}

template <class T>
void run(T* c, std::int64_t stride, const Product& p, std::int64_t slab_end, const float* bias,
         bool accumulate) {
  const std::int64_t rows = p.kind.rows, cols = p.kind.cols;
  const std::int64_t down = ceil_div(slab_end - p.slab, kTaskRows),
                     across = ceil_div(p.n, kTaskCols);
  parallel_for(down * across, 1, [&](std::int64_t first, std::int64_t last) {
    TileF f;
    for (std::int64_t task = first; task < last; ++task) {
      const std::int64_t row0 = p.slab + task % down * kTaskRows, col0 = task / down * kTaskCols;
      const std::int64_t row1 = std::min(row0 + kTaskRows, slab_end),
                         col1 = std::min(col0 + kTaskCols, p.n);
      for (std::int64_t col = col0; col < col1; col += cols)
        for (std::int64_t row = row0; row < row1; row += rows) {
          p.tile(f.data(), row, col);
          store(c + row * stride + col, stride, f.data(), cols, bias ? bias + col : nullptr,
                std::min(rows, row1 - row), std::min(cols, col1 - col), accumulate);
        }
    }
  });
}

// A panel must not straddle two slabs or tasks, nor a register tile two tiles of segments: they
// have 4 or 12 rows, 16 or 32 columns.
static_assert(kSlab % kTaskRows == 0 && kTaskRows % 12 == 0 && kTaskCols % 32 == 0 &&
              Segments::kRows % 12 == 0 && Segments::kCols % 32 == 0);

CodeOperand contiguous(const CodeOperand& x) {
  CodeOperand y = x;
  if (!x.codes.is_contiguous()) y.codes = x.codes.clone();
  if (!x.scales.is_contiguous()) y.scales = x.scales.clone();
  return y;
}

}  // namespace

void int_gemm(Tensor& c, const CodeOperand& lhs, const CodeOperand& rhs, std::int64_t k,
              std::int64_t block, const Tensor& bias, bool accumulate) {
  const std::int64_t m = c.size(0), n = c.size(1);
  if (m == 0 || n == 0) return;
  const CodeOperand a = contiguous(lhs), b = contiguous(rhs);
  const IntTile& kind = int_tile();
  const Depth depth{k, std::max<std::int64_t>(block, 1), kind.codes};
  const bool zeros = a.zeros || b.zeros;
  const bool b_moved = offset_of(b, Side::B, kind.codes) != 0,
             a_moved = offset_of(a, Side::A, kind.codes) != 0;
  const auto pack_a = [&](std::int64_t begin, std::int64_t end) {
    return pack(a, depth, {Side::A, begin, end, kind.rows, zeros, zeros || b_moved});
  };
  Product p{kind,
            {},
            pack(b, depth, {Side::B, 0, n, kind.cols, zeros, zeros || a_moved}),
            depth,
            Segments(m, n, k, block),
            n,
            0};
  const Tensor wide = bias ? bias.to(DType::F32) : bias;
  const float* add = wide ? wide.data<float>() : nullptr;
  for (; p.slab < m; p.slab += kSlab) {
    const std::int64_t end = std::min(p.slab + kSlab, m);
    p.packed_a = pack_a(p.slab, end);
    if (c.dtype() == DType::BF16)
      run(c.data<bfloat16>(), c.strides()[0], p, end, add, accumulate);
    else
      run(c.data<float>(), c.strides()[0], p, end, add, accumulate);
  }
}

void int_gemm_gelu(Tensor& c, Tensor& before, const CodeOperand& a, const CodeOperand& b,
                   std::int64_t k, std::int64_t block, const Tensor& bias) {
  Tensor y = before ? before : Tensor::empty(c.shape(), c.dtype());
  int_gemm(y, a, b, k, block, bias, false);
  gelu_tanh(c, y);
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
