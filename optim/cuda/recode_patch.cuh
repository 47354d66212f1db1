// What a block of the recode kernel (recode.cu) does with a patch of a weight: it finds the largest
// magnitudes of rows, columns and tiles, or, when these are known, the codes of its encodings.
#pragma once

#include "optim/kernels.h"
#include "quant/cuda/one_pass.cuh"

namespace nibble::cuda::recoding {

using namespace one_pass;

inline constexpr int kBlock = 256;
inline constexpr int kRows = static_cast<int>(kRecodeRows), kCols = static_cast<int>(kRecodeCols);
// Thread (across, down) has rows kEach · down … of columns 8 · across …
inline constexpr int kAcross = kCols / 8, kDown = kBlock / kAcross, kEach = kRows / kDown;
static_assert(kAcross == 8 && kEach == 4 && kBlock == 2 * kRows);

// One encoding. Scales and their maxima lie at row · row_stride + column · col_stride of tiles.
struct Target {
  std::uint8_t* codes;
  float* scales;
  std::uint32_t maxima;                // where they begin in the scratch
  std::uint32_t tile_rows, tile_cols;  // in x
  std::uint32_t row_stride, col_stride;
  bool transposed;

  __device__ bool by_row() const { return tile_rows == 1; }
  __device__ bool by_col() const { return tile_cols == 1; }
  // Of row and column of x.
  __device__ std::uint32_t slot(std::uint32_t row, std::uint32_t col) const {
    return row / tile_rows * row_stride + col / tile_cols * col_stride;
  }
};
// A weight, and one or two encodings of it.
struct Segment {
  const void* x;
  std::uint32_t rows, cols, across, patches;
  std::uint32_t targets;
  Target target[2];
};

struct Shared {
  std::uint32_t item;
  alignas(16) std::uint32_t column_most[kBlock / kWarp][kCols];
  alignas(16) float factor[2][kRows], inverse[2][kRows];
  uint4 turned[kCols * (kRows / 16)];
};

// Where a column's 16 codes number `chunk` lie: writes of 8 columns at once and reads of 8 chunks
// meet all banks.
__device__ inline unsigned place(unsigned column, unsigned chunk) {
  return column * (kRows / 16) + (chunk ^ column / 8);
}

__device__ inline std::uint32_t load_acquired(const std::uint32_t* p) {
  std::uint32_t x;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
  return x;
}

// The 4 x 4 bytes of four words, one row a word, turned.
__device__ inline void turn(const std::uint32_t (&w)[4], std::uint32_t (&to)[4]) {
  const std::uint32_t ab_low = __byte_perm(w[0], w[1], 0x5140),
                      ab_high = __byte_perm(w[0], w[1], 0x7362),
                      cd_low = __byte_perm(w[2], w[3], 0x5140),
                      cd_high = __byte_perm(w[2], w[3], 0x7362);
  to[0] = __byte_perm(ab_low, cd_low, 0x5410);
  to[1] = __byte_perm(ab_low, cd_low, 0x7632);
  to[2] = __byte_perm(ab_high, cd_high, 0x5410);
  to[3] = __byte_perm(ab_high, cd_high, 0x7632);
}

// A thread's place in a patch, and what it has of it.
template <class T>
struct Patch {
  const Segment& s;
  std::uint32_t across, down, row0, col0, row, col;
  T x[kEach][8];

  __device__ Patch(const Segment& segment, std::uint32_t number)
      : s(segment), across(threadIdx.x % kAcross), down(threadIdx.x / kAcross) {
    row0 = number / s.across * kRows, col0 = number % s.across * kCols;
    row = row0 + down * kEach, col = col0 + across * 8;
    // Past an edge the last row or vector once more: it changes no maximum.
#pragma unroll
    for (int i = 0; i < kEach; ++i) load_row<8>(from(i), x[i]);
  }
  __device__ const T* from(int i) const {
    return static_cast<const T*>(s.x) + std::int64_t{min(row + i, s.rows - 1)} * s.cols +
           min(col, s.cols - 8);
  }
};

// Sends the largest magnitudes of rows, columns and the patch to those encodings that want them.
template <class T>
__device__ void find_maxima(const Patch<T>& p, Shared& shared, std::uint32_t* maxima) {
  const Segment& s = p.s;
  std::uint32_t row_most[kEach] = {}, col_most[8] = {};
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    float v[8];
    widen(p.x[i], v);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const std::uint32_t most = std::bit_cast<std::uint32_t>(v[j]) & 0x7fffffffu;
      row_most[i] = ::max(row_most[i], most);
      col_most[j] = ::max(col_most[j], most);
    }
  }
#pragma unroll
  for (std::uint32_t& most : row_most)
#pragma unroll
    for (int distance = 1; distance < kAcross; distance *= 2)
      most = ::max(most, __shfl_xor_sync(kFullMask, most, distance));
#pragma unroll
  for (std::uint32_t& most : col_most)
#pragma unroll
    for (int distance = kAcross; distance < static_cast<int>(kWarp); distance *= 2)
      most = ::max(most, __shfl_xor_sync(kFullMask, most, distance));
  const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (lane < kAcross) store_row<8>(shared.column_most[warp] + lane * 8, col_most);
  // Lane `across` of eight sends row `across` of their four.
  std::uint32_t own = row_most[0];
#pragma unroll
  for (std::uint32_t i = 1; i < kEach; ++i) own = p.across == i ? row_most[i] : own;
  const bool sends = p.across < kEach && p.row + p.across < s.rows;
#pragma unroll
  for (std::uint32_t k = 0; k < 2; ++k) {
    if (k >= s.targets || !s.target[k].by_row() || !sends) continue;
    atomicMax(maxima + s.target[k].maxima + s.target[k].slot(p.row + p.across, p.col0), own);
  }
  __syncthreads();
  if (threadIdx.x >= kCols) return;
  const std::uint32_t col = p.col0 + threadIdx.x;
  std::uint32_t most = 0;
#pragma unroll
  for (unsigned w = 0; w < kBlock / kWarp; ++w)
    most = ::max(most, shared.column_most[w][threadIdx.x]);
  if (col >= s.cols)
    most = 0;  // an element of the last vector once more: part of the patch already
  const std::uint32_t all = __reduce_max_sync(kFullMask, most);
#pragma unroll
  for (std::uint32_t k = 0; k < 2; ++k) {
    if (k >= s.targets || s.target[k].by_row()) continue;
    const Target& t = s.target[k];
    if (t.by_col() ? col < s.cols : lane == 0)
      atomicMax(maxima + t.maxima + t.slot(p.row0, t.by_col() ? col : p.col0),
                t.by_col() ? most : all);
  }
}

// From maxima to steps: thread i of each half of the block has row or column i of one encoding.
// The first patch of a tile writes its scale. True when all runs are usual (one_pass.cuh).
template <Quotients kQuotients, class T, class Codes>
__device__ bool find_steps(const Patch<T>& p, const RuleOf<Codes>& rule, Shared& shared,
                           const std::uint32_t* maxima) {
  const Segment& s = p.s;
  const std::uint32_t k = threadIdx.x / kRows, i = threadIdx.x % kRows;
  bool usual = true;
  if (k < s.targets) {
    const Target& t = s.target[k];
    const std::uint32_t row = p.row0 + (t.by_row() ? i : 0), col = p.col0 + (t.by_col() ? i : 0);
    if (row < s.rows && col < s.cols && (t.by_row() || !t.by_col() || i < kCols)) {
      const std::uint32_t slot = t.slot(row, col);
      const Scale scale = rule.template scale_of<kQuotients>(__ldcg(maxima + t.maxima + slot));
      shared.factor[k][i] = scale.factor;
      shared.inverse[k][i] = scale.inverse;
      usual = scale.usual();
      const bool first = row % t.tile_rows == 0 && col % t.tile_cols == 0;
      if (first && (t.by_row() || t.by_col() || i == 0)) t.scales[slot] = scale.step;
    }
  }
  return __syncthreads_and(usual);
}

// The codes of eight elements by general arithmetic; `stride` of the factors is 0 or 1.
template <Quotients kQuotients, class T, class Codes>
__device__ __noinline__ uint2 unusual_codes(const T* x, const float* factors, int stride,
                                            const RuleOf<Codes>& rule) {
  T in[8];
  load_row<8>(x, in);
  float y[8];
  widen(in, y);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float factor = factors[j * stride];
    y[j] = kQuotients == Quotients::Reciprocal ? codec::multiply(y[j], factor, 0.0f)
                                               : codec::divide(y[j], factor, 0.0f);
  }
  const std::uint32_t noise[8] = {};
  std::uint32_t codes[8];
  typename Codes::Shared none;
  rule.coder.template encode<false>(none, y, noise, codes);
  return {low_bytes(codes[0], codes[1], codes[2], codes[3]),
          low_bytes(codes[4], codes[5], codes[6], codes[7])};
}

// A thread's codes for one encoding, by rows of x.
template <bool kByCol, Quotients kQuotients, class T, class Codes>
__device__ void find_codes(const Patch<T>& p, const RuleOf<Codes>& rule, const float* factor,
                           const float* inverse, bool usual, std::uint32_t (&words)[kEach][2]) {
  const std::uint32_t at = kByCol ? p.across * 8 : p.down * kEach;
  if (!usual) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const uint2 codes = unusual_codes<kQuotients, T, Codes>(
          p.from(i), factor + at + (kByCol ? 0 : i), kByCol ? 1 : 0, rule);
      words[i][0] = codes.x, words[i][1] = codes.y;
    }
    return;
  }
  constexpr int kOwn = kByCol ? 8 : kEach;
  float f[kOwn] = {}, r[kOwn];
  load_row<kOwn>(inverse + at, r);
  if constexpr (kQuotients == Quotients::Divide) load_row<kOwn>(factor + at, f);
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    float y[8];
    widen(p.x[i], y);
#pragma unroll
    for (int j = 0; j < 8; ++j)
      y[j] = usual_quotient<kQuotients, Codes::kSigned>(y[j], f[kByCol ? j : i], r[kByCol ? j : i]);
    rule.coder.template codes<false>(y, Philox{}, words[i]);
  }
}

// Codes of xᵀ pass through shared memory, so that columns of 128 are written whole.
template <class T>
__device__ void store_turned(const Patch<T>& p, Shared& shared, std::uint8_t* to,
                             const std::uint32_t (&words)[kEach][2]) {
#pragma unroll
  for (unsigned half = 0; half < 2; ++half) {
    std::uint32_t columns[4];
    turn({words[0][half], words[1][half], words[2][half], words[3][half]}, columns);
#pragma unroll
    for (unsigned j = 0; j < 4; ++j)
      reinterpret_cast<std::uint32_t*>(
          shared.turned + place(p.across * 8 + half * 4 + j, p.down / 4))[p.down % 4] = columns[j];
  }
  __syncthreads();
  constexpr unsigned kChunks = kRows / 16;
#pragma unroll
  for (unsigned i = threadIdx.x; i < kCols * kChunks; i += kBlock) {
    const unsigned col = p.col0 + i / kChunks, row = p.row0 + i % kChunks * 16;
    if (col < p.s.cols && row < p.s.rows)
      __stcs(reinterpret_cast<uint4*>(to + std::int64_t{col} * p.s.rows + row),
             shared.turned[place(i / kChunks, i % kChunks)]);
  }
}

template <Quotients kQuotients, class T, class Codes>
__device__ void encode(const Patch<T>& p, const RuleOf<Codes>& rule, Shared& shared,
                       const std::uint32_t* maxima) {
  const bool usual = find_steps<kQuotients>(p, rule, shared, maxima);
#pragma unroll 1
  for (std::uint32_t k = 0; k < p.s.targets; ++k) {
    const Target& t = p.s.target[k];
    std::uint32_t words[kEach][2];
    if (t.by_col())
      find_codes<true, kQuotients>(p, rule, shared.factor[k], shared.inverse[k], usual, words);
    else
      find_codes<false, kQuotients>(p, rule, shared.factor[k], shared.inverse[k], usual, words);
    if (t.transposed) {
      if (k > 0) __syncthreads();  // the other's codes have been read
      store_turned(p, shared, t.codes, words);
    } else if (p.col < p.s.cols) {
#pragma unroll
      for (int i = 0; i < kEach; ++i)
        if (p.row + i < p.s.rows)
          __stcs(reinterpret_cast<uint2*>(t.codes + std::int64_t{p.row + i} * p.s.cols + p.col),
                 uint2{words[i][0], words[i][1]});
    }
  }
}

}  // namespace nibble::cuda::recoding
