// Runs along columns in one pass, for codes of the transpose: a block holds kRun rows of kCols
// columns in registers, finds each column's range, and turns the codes in shared memory. Reads 2 or
// 4 bytes an element and writes 1, where ranges, scales, codes and the transposition apart move 7;
// about 12 operations an element, 20 with noise, so memory is the roof of the first. What a
// producer makes of x (source_columns.cu) is made in registers: no byte more. Measured by
// `nibble bench kernels`.
#pragma once

#include "quant/cuda/one_pass.cuh"
#include "quant/kernels.h"

namespace nibble::cuda::one_pass {

// What is encoded: x as it is. A source is told a thread's 8 columns once, and then makes of 8
// neighbours in a row of x what its producer stores in their place.
template <class T>
struct Itself {
  struct Columns {};
  static constexpr int kFewerBlocks = 0;  // a multiprocessor's, for the registers it takes
  __device__ Columns columns(std::uint32_t) const { return {}; }
  __device__ void make(T (&)[8], std::uint32_t, const Columns&) const {}
};

// The largest magnitudes of eight columns; bf16 ones are compared in pairs, as 16-bit halves.
template <class T>
struct ColumnMaxima {
  static constexpr int kWords = sizeof(T) == 2 ? 4 : 8;
  std::uint32_t words[kWords] = {};

  __device__ static std::uint32_t greater(std::uint32_t a, std::uint32_t b) {
    return sizeof(T) == 2 ? __vmaxu2(a, b) : ::max(a, b);
  }
  __device__ void add(const T (&x)[8]) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (sizeof(T) == 2)
        words[i] = greater(words[i],
                           (x[2 * i].bits | std::uint32_t{x[2 * i + 1].bits} << 16) & 0x7fff7fffu);
      else
        words[i] = greater(words[i], std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu);
    }
  }
  // Over lanes that lie multiples of `distance` apart.
  __device__ void reduce_lanes(int distance) {
    for (; distance < static_cast<int>(kWarp); distance *= 2)
#pragma unroll
      for (std::uint32_t& w : words) w = greater(w, __shfl_xor_sync(kFullMask, w, distance));
  }
  // The f32 bits of column j's.
  __device__ static std::uint32_t of_column(const std::uint32_t* words, unsigned j) {
    if constexpr (sizeof(T) == 2)
      return j % 2 ? words[j / 2] & 0xffff0000u : words[j / 2] << 16;
    else
      return words[j];
  }
};

// A tile of columns and the threads that hold it: thread (across, down) has rows kEach · down … of
// columns 8 · across …
template <int kRun, int kCols, int kThreads>
struct ColumnTile {
  static constexpr int kRows = kRun, kColumns = kCols, kBlock = kThreads;
  static constexpr int kAcross = kCols / 8, kDown = kBlock / kAcross, kEach = kRun / kDown;
  static constexpr int kWords = kEach / 4, kChunks = kRun / 16;
  static_assert(kEach % 4 == 0 && kAcross <= 8 && kChunks >= 8);

  // Where a column's 16 codes number `chunk` lie: a warp's writes of 8 columns and reads of 8
  // chunks meet all banks.
  __device__ static unsigned place(unsigned column, unsigned chunk) {
    return column * kChunks + (chunk ^ (column / 8 * (8 / kAcross)));
  }
};

// A multiprocessor's blocks: one computes while others load. Left to itself nvcc takes registers
// for one or two.
template <class T, class Tile, bool kStochastic>
constexpr int kBlocks = (Tile::kEach < 8 || !kStochastic ? 4 : 3) -
                        (sizeof(T) == 2                   ? 0
                         : Tile::kEach < 8 || kStochastic ? 1
                                                          : 2);

template <class T, class Tile, Quotients kQuotients, bool kStochastic, class Source>
__global__ void __launch_bounds__(Tile::kBlock,
                                  kBlocks<T, Tile, kStochastic> - Source::kFewerBlocks)
    column_runs_kernel(std::uint8_t* out, float* steps, const T* x, const Source source,
                       std::uint32_t rows, std::uint32_t cols, std::uint32_t runs,
                       std::uint32_t tiles, const __grid_constant__ Rule rule,
                       const __grid_constant__ KeyedDraws keys) {
  using Maxima = ColumnMaxima<T>;
  constexpr unsigned kWarps = Tile::kBlock / kWarp;
  __shared__ std::uint32_t most[kWarps][Tile::kAcross * Maxima::kWords];
  alignas(16) __shared__ float factors[Tile::kColumns];
  alignas(16) __shared__ float inverses[Tile::kColumns];
  __shared__ float found[Tile::kColumns];
  __shared__ uint4 turned[Tile::kColumns * Tile::kChunks];
  const unsigned across = threadIdx.x % Tile::kAcross, down = threadIdx.x / Tile::kAcross;
  // Neighbouring blocks take neighbouring columns: rows of x are read whole.
  const std::uint32_t col0 = blockIdx.x % tiles * Tile::kColumns, run = blockIdx.x / tiles;
  const std::uint32_t row0 = run * Tile::kRows, last = min(row0 + Tile::kRows, rows) - 1;
  const std::uint32_t col = min(col0 + across * 8, cols - 8);
  const std::uint32_t first = row0 + down * Tile::kEach;
  const KeyedDraws::Stream draws = keys.stream(kStochastic);

  T in[Tile::kEach][8];
#pragma unroll
  for (int i = 0; i < Tile::kEach; ++i) {
    // Past the end the last row once more: it changes no maximum.
    load_row<8>(x + std::int64_t{min(first + i, last)} * cols + col, in[i]);
  }
  const typename Source::Columns own = source.columns(col);
#pragma unroll
  for (int i = 0; i < Tile::kEach; ++i) source.make(in[i], min(first + i, last), own);
  Maxima maxima;
#pragma unroll
  for (int i = 0; i < Tile::kEach; ++i) maxima.add(in[i]);
  maxima.reduce_lanes(Tile::kAcross);
  if (threadIdx.x % kWarp < Tile::kAcross)
#pragma unroll
    for (int i = 0; i < Maxima::kWords; ++i)
      most[threadIdx.x / kWarp][across * Maxima::kWords + i] = maxima.words[i];
  __syncthreads();
  if (const unsigned c = threadIdx.x; c < Tile::kColumns) {
    std::uint32_t all = 0;
#pragma unroll
    for (unsigned w = 0; w < kWarps; ++w)
      all = ::max(all, Maxima::of_column(most[w] + c / 8 * Maxima::kWords, c % 8));
    const Scale scale = rule.scale_of<kQuotients>(all);
    factors[c] = scale.factor;
    inverses[c] = scale.inverse;
    found[c] = scale.step;
    if (col0 + c < cols) steps[std::int64_t{col0 + c} * runs + run] = scale.step;
  }
  __syncthreads();
  float factor[8], inverse[8];
  load_row<8>(factors + across * 8, factor);
  load_row<8>(inverses + across * 8, inverse);
  bool usual = true;
#pragma unroll
  for (int j = 0; j < 8; ++j) usual = usual && inverse[j] != 0;
  std::uint32_t words[8][Tile::kWords] = {};
  if (usual) {
#pragma unroll
    for (int w = 0; w < Tile::kWords; ++w) {
      std::uint32_t codes[4][8];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        Philox noise{};
        if constexpr (kStochastic)
          noise = draws.block((std::uint64_t{first + w * 4 + i} * cols + col) / 8);
        float values[8];
        widen(in[w * 4 + i], values);
#pragma unroll
        for (int j = 0; j < 8; ++j)
          codes[i][j] = rule.coder.code<kStochastic>(
              usual_quotient<kQuotients, false>(values[j], factor[j], inverse[j]), noise, j);
      }
#pragma unroll
      for (int j = 0; j < 8; ++j)
        words[j][w] = low_bytes(codes[0][j], codes[1][j], codes[2][j], codes[3][j]);
    }
  } else {
    Steps<8> step;
#pragma unroll
    for (int j = 0; j < 8; ++j) step.step_[j] = found[across * 8 + j];
    Division<kQuotients, 8> division;
    division.set(step);
#pragma unroll 1
    for (int i = 0; i < Tile::kEach; ++i) {
      const std::uint32_t row = min(first + i, last);
      const std::int64_t at = std::int64_t{row} * cols + col;
      T again[8];  // an index of the loop would put `in` in local memory
      load_row<8>(x + at, again);
      source.make(again, row, own);
      float values[8];
      widen(again, values);
      std::uint32_t noise[8] = {};
      if constexpr (kStochastic) draw_row<8>(draws, at, noise);
      std::uint8_t codes[8];
      apply<std::uint8_t, kStochastic>(rule, step, division, values, noise, codes);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        // The newest code comes in at the top; after kEach of them each lies in its place.
#pragma unroll
        for (int w = 0; w < Tile::kWords; ++w) {
          const std::uint32_t next =
              w + 1 < Tile::kWords ? words[j][w + 1 < Tile::kWords ? w + 1 : w] : codes[j];
          words[j][w] = __byte_perm(words[j][w], next, 0x4321);
        }
      }
    }
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    constexpr int kPerChunk = 4 / Tile::kWords;  // threads
    auto* const chunk =
        reinterpret_cast<std::uint32_t*>(turned + Tile::place(across * 8 + j, down / kPerChunk));
    store_row<Tile::kWords>(chunk + down % kPerChunk * Tile::kWords, words[j]);
  }
  __syncthreads();
  const std::uint32_t chunks = (last - row0 + 1) / 16;
#pragma unroll
  for (unsigned i = threadIdx.x; i < Tile::kColumns * Tile::kChunks; i += Tile::kBlock) {
    const unsigned c = i / Tile::kChunks, chunk = i % Tile::kChunks;
    if (col0 + c < cols && chunk < chunks)
      *reinterpret_cast<uint4*>(out + std::int64_t{col0 + c} * rows + row0 + chunk * 16) =
          turned[Tile::place(c, chunk)];
  }
}

template <class T, class Tile, Quotients kQuotients, bool kStochastic, class Source>
void column_runs(Tensor& codes, Tensor& scales, const Tensor& x, const Source& source,
                 const QuantSpec& spec, const RngKey& key) {
  const std::int64_t rows = x.size(0), cols = x.size(1), runs = ceil_div(rows, Tile::kRows),
                     tiles = ceil_div(cols, Tile::kColumns);
  launch(column_runs_kernel<T, Tile, kQuotients, kStochastic, Source>,
         dim3(static_cast<unsigned>(runs * tiles)), dim3(Tile::kBlock), 0,
         reinterpret_cast<std::uint8_t*>(codes.raw()), scales.data<float>(), x.data<T>(), source,
         checked_extent(rows), checked_extent(cols), static_cast<std::uint32_t>(runs),
         static_cast<std::uint32_t>(tiles), Rule(spec), KeyedDraws(key));
}

// Calls fn with the tile that serves a spec stated for xᵀ.
template <class F>
void with_column_tile(const QuantSpec& spec, const Tensor& x, F&& fn) {
  if (spec.resolve(x.size(1), x.size(0)).cols == 256)
    fn(ColumnTile<256, 64, 256>{});
  else
    fn(ColumnTile<128, 64, 256>{});
}

}  // namespace nibble::cuda::one_pass
