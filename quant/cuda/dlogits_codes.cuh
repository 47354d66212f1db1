// The second pass of quant_dlogits (dlogits.cu): tiles of a group of tokens and 32 columns. It
// forms the values in registers, finds the columns' steps and encodes every value twice with one
// draw; column codes are turned in shared memory.
#pragma once

#include "quant/cuda/pair_tile_encode.cuh"
#include "tensor/cuda/loss.cuh"
#include "tensor/cuda/matrix_loads.cuh"

namespace nibble::cuda::dlogits {

// What the second pass reads of a row: 16 bytes.
struct alignas(16) RowFacts {
  float shift;  // of loss::Gradient, or the log-sum-exp if !folds
  float step;
  std::int32_t target;      // −1: ignored
  std::uint16_t at_target;  // the value there, of the scale's magnitude; a bf16's bits
  bool folds;
};

// A negative scale turns all signs: multipliers' instead of values'.
__device__ inline float sign_of(float scale) { return scale < 0 ? -1.0f : 1.0f; }

// A tile of tokens and columns: thread (across, down) has rows kEach · down … of columns 8 · across
// …
constexpr int kEach = 4;
template <int kTokens>
struct TokenTile {
  static constexpr int kRows = kTokens, kColumns = 32, kChunks = kRows / 16;
  static constexpr int kAcross = kColumns / 8, kBlock = kRows / kEach * kAcross;
  static constexpr int kResident = 768 / kBlock;  // blocks of a multiprocessor
};

struct Matrices {
  std::uint8_t *row_codes, *column_codes;
  float* column_steps;
  const bfloat16* logits;
  const RowFacts* facts;
  const float* scale;
  std::uint32_t rows, cols, runs, tiles, strips;
  float row_high, column_high;
  std::uint32_t row_pair, column_pair;  // the same in both 16-bit halves
  std::uint32_t flip;                   // kFlip
};

// A quotient rounded into the low bits of a float, for two_codes; kFinite: it is no NaN, of which
// fminf makes the largest code.
template <bool kStochastic, bool kFinite>
__device__ std::uint32_t rounded(float x, float factor, float noise, float high) {
  float y = codec::mul(x, factor);
  if constexpr (kStochastic) y = std::fma(noise, 0x1p-32f, y);
  if constexpr (!kFinite) y = fminf(y, high);
  return std::bit_cast<std::uint32_t>(codec::add(y, codec::kRoundMagic));
}

__device__ inline std::uint32_t word_of(const uint4& x, int w) {
  return w == 0 ? x.x : w == 1 ? x.y : w == 2 ? x.z : x.w;
}
// Eight logits of a row become the magnitudes of their gradient, as if none were the target's.
template <class F>
__device__ void differentiate(uint4& raw, F magnitude) {
  std::uint32_t words[4];
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const std::uint32_t pair = word_of(raw, w);
    const float low = magnitude(std::bit_cast<float>(pair << 16));
    const float high = magnitude(std::bit_cast<float>(pair & 0xffff0000u));
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(words[w]) : "f"(high), "f"(low));
  }
  raw = {words[0], words[1], words[2], words[3]};
}
// The target's value, `ahead` columns further.
__device__ inline void place_target(uint4& raw, std::uint32_t value, std::uint32_t ahead) {
  const std::uint32_t place = ahead % 2 ? 0x5410 : 0x3254;
  if (ahead / 2 == 0) raw.x = __byte_perm(raw.x, value, place);
  if (ahead / 2 == 1) raw.y = __byte_perm(raw.y, value, place);
  if (ahead / 2 == 2) raw.z = __byte_perm(raw.z, value, place);
  if (ahead / 2 == 3) raw.w = __byte_perm(raw.w, value, place);
}

// The largest of each pair of columns in a warp's rows; a lane ends with that of pair lane / 8 of
// its eight columns. Lanes hand on half of their pairs at a time.
__device__ inline std::uint32_t largest_of_warp(const std::uint32_t (&m)[4]) {
  const bool upper = threadIdx.x & 16, odd = threadIdx.x & 8;
  const auto fold = [](bool second, std::uint32_t a, std::uint32_t b, int distance) {
    return __vmaxu2(second ? b : a, __shfl_xor_sync(kFullMask, second ? a : b, distance));
  };
  const std::uint32_t first = fold(upper, m[0], m[2], 16), second = fold(upper, m[1], m[3], 16);
  const std::uint32_t most = fold(odd, first, second, 8);
  return __vmaxu2(most, __shfl_xor_sync(kFullMask, most, 4));
}

// 2^32 times the centred noise of draw j. kFlip comes as a parameter: the compiler would take two
// instructions for two constants.
constexpr std::uint32_t kFlip = 0x80008000u;
__device__ inline float scaled_noise(const Philox& draws, int j, std::uint32_t flip) {
  const std::uint32_t two = draws.v[j / 2];
  const std::uint32_t bits = j % 2 ? (two & 0xffff0000u) ^ flip : two * 0x10000u + flip;
  return static_cast<float>(static_cast<std::int32_t>(bits));
}

// 16 bytes; the second-level cache reads their whole line, whose other half the block beside needs.
__device__ inline void copy_of_line(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared_address(to)),
               "l"(from)
               : "memory");
}

// Four rows of logits to their gradient, whatever they hold, in a thread's part of `coming`.
template <class Tile>
__device__ void differentiate_any(uint4 (&coming)[kEach][Tile::kBlock], const RowFacts* facts,
                                  std::uint32_t col, float size) {
#pragma unroll 1
  for (int i = 0; i < kEach; ++i) {
    const RowFacts f = facts[i];
    uint4 x = coming[i][threadIdx.x];
    differentiate(x, [&](float v) {
      return f.folds ? loss::Gradient<bfloat16>::folded(v, f.shift)
                     : row_exp<bfloat16>(v - f.shift) * size;
    });
    const std::uint32_t ahead = static_cast<std::uint32_t>(f.target) - col;
    if (f.target < 0)
      x = {};
    else if (ahead < 8)
      place_target(x, f.at_target, ahead);
    coming[i][threadIdx.x] = x;
  }
}

// Each block takes every strips-th tile of one group of tokens, whose rows' facts it keeps, so that
// the blocks beside it read and write beside it; the next tile is on its way while this one is
// encoded.
template <class Tile, bool kStochastic>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kResident)
    codes_kernel(const __grid_constant__ Matrices m,
                 const __grid_constant__ one_pass::Rule column_rule,
                 const __grid_constant__ KeyedDraws keys) {
  constexpr unsigned kWarps = Tile::kBlock / kWarp, kRows = Tile::kRows;
  __shared__ RowFacts facts[kRows];
  __shared__ uint4 coming[kEach][Tile::kBlock];  // a thread's part of the next tile
  __shared__ std::uint32_t most[kWarps][Tile::kAcross * 4];
  alignas(16) __shared__ float factors[Tile::kColumns];
  // [columns][rows]; chunks of 16 rows are swapped by column, so that a warp's writes and reads
  // meet all banks.
  alignas(16) __shared__ std::uint8_t turned[Tile::kColumns * kRows];
  const unsigned across = threadIdx.x % Tile::kAcross, down = threadIdx.x / Tile::kAcross;
  const std::uint32_t strip = blockIdx.x % m.strips, run = blockIdx.x / m.strips;
  const std::uint32_t row0 = run * kRows, rows = min(kRows, m.rows - row0);
  // Past the end the last rows once more: they change no maximum. 16 divides rows.
  const bool has_rows = down * kEach < rows;
  const std::uint32_t first = min(down * kEach, rows - kEach);
  const KeyedDraws::Stream draws = keys.stream(kStochastic);
  const float sign = sign_of(*m.scale), size = std::fabs(*m.scale);
  for (unsigned i = threadIdx.x; i < rows; i += Tile::kBlock) {
    RowFacts f = m.facts[row0 + i];
    f.step = codec::multiplier_of(f.step) * sign;
    facts[i] = f;
  }

  const std::int64_t start = std::int64_t{row0 + first} * m.cols;
  const bfloat16* const from = m.logits + start;
  std::uint8_t* const to = m.row_codes + start;
  const auto column_of_tile = [&](std::uint32_t tile) {
    return min(tile * Tile::kColumns + across * 8, m.cols - 8);
  };
  const auto fetch = [&](std::uint32_t col) {
    const bfloat16* row = from + col;
#pragma unroll
    for (int i = 0; i < kEach; ++i, row += m.cols) copy_of_line(&coming[i][threadIdx.x], row);
    commit_copies();
  };
  std::uint32_t tile = strip, col = column_of_tile(tile);
  fetch(col);
  __syncthreads();
  bool plain = true, finite_rows = true;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const RowFacts f = facts[first + i];
    plain = plain && f.target >= 0 && f.folds;
    finite_rows = finite_rows && f.step == f.step;
  }
  const std::uint32_t blocks_of_row = m.cols / 8, block0 = (row0 + first) * blocks_of_row;
  const std::uint32_t warp_most =
      threadIdx.x / kWarp * (Tile::kAcross * 4) + across * 4 + threadIdx.x % kWarp / 8;
  const std::uint32_t put =
      across * 8 * kRows + (down * kEach / 16 ^ across * 2) * 16 + down * kEach % 16;
  // Of the turned codes a thread copies 16 rows of columns kStride apart.
  constexpr unsigned kStride = Tile::kBlock / Tile::kChunks, kCopies = Tile::kColumns / kStride;
  const unsigned column = threadIdx.x / Tile::kChunks, chunk = threadIdx.x % Tile::kChunks;
  const bool has_chunk = chunk < rows / 16;
  const std::uint32_t get = column * kRows + (chunk ^ column / 8 * 2) * 16;
  std::uint8_t* copy_to =
      m.column_codes + row0 + chunk * 16 + (std::int64_t{tile} * Tile::kColumns + column) * m.rows;

#pragma unroll 1
  for (; tile < m.tiles; tile += m.strips) {
    const std::uint32_t col0 = tile * Tile::kColumns;
    uint4 x[kEach];  // logits, then their gradient
    wait_for_copies<0>();
#pragma unroll
    for (int i = 0; i < kEach; ++i) x[i] = coming[i][threadIdx.x];
    std::uint32_t nearest = 0xffffffffu, maxima[4] = {};
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const RowFacts f = facts[first + i];
      nearest = min(nearest, static_cast<std::uint32_t>(f.target) - col);
      differentiate(x[i], [&](float v) { return loss::Gradient<bfloat16>::folded(v, f.shift); });
#pragma unroll
      for (int w = 0; w < 4; ++w) maxima[w] = __vmaxu2(maxima[w], word_of(x[i], w));
    }
    if (nearest < 8 || !plain) {
      differentiate_any<Tile>(coming, facts + first, col, size);
#pragma unroll
      for (std::uint32_t& w : maxima) w = 0;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        x[i] = coming[i][threadIdx.x];
#pragma unroll
        for (int w = 0; w < 4; ++w) maxima[w] = __vmaxu2(maxima[w], word_of(x[i], w) & 0x7fff7fffu);
      }
    }
    const std::uint32_t largest = largest_of_warp(maxima);
    if (threadIdx.x % 8 < 4) most[0][warp_most] = largest;  // other lanes have the same
    __syncthreads();
    bool finite = finite_rows;
    if (const unsigned c = threadIdx.x; c < Tile::kColumns) {
      std::uint32_t all = 0;
#pragma unroll
      for (unsigned w = 0; w < kWarps; ++w) all = __vmaxu2(all, most[w][c / 2]);
      all = c % 2 ? all & 0xffff0000u : all << 16;
      finite = finite && all < stream_pair::kNotFinite;
      const float step = column_rule.of_largest(all);
      factors[c] = codec::multiplier_of(step) * sign;
      if (col0 + c < m.cols) m.column_steps[std::int64_t{col0 + c} * m.runs + run] = step;
    }
    finite = __syncthreads_and(finite);

    float by_column[8];
    load_row<8>(factors + across * 8, by_column);
    const bool exists = has_rows && col0 + across * 8 < m.cols;
    const std::uint32_t next = column_of_tile(min(tile + m.strips, m.tiles - 1));
    // Codes of row i: they leave, or take their place among their columns'.
    std::uint32_t block = block0 + col / 8, held[8], words[8];
    std::uint8_t* row_to = to + col;
    const auto encode = [&](auto is_finite, int i, const uint4& row) {
      constexpr bool kFinite = decltype(is_finite)::value;
      const float by_row = facts[first + i].step;
      Philox noise{};
      if constexpr (kStochastic) noise = draws.block(block);
      std::uint32_t codes[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const std::uint32_t pair = word_of(row, j / 2);
        const auto v = std::bit_cast<float>(j % 2 ? pair & 0xffff0000u : pair << 16);
        const float z = kStochastic ? scaled_noise(noise, j, m.flip) : 0.0f;
        codes[j] = rounded<kStochastic, kFinite>(v, by_row, z, m.row_high);
        const std::uint32_t c = rounded<kStochastic, kFinite>(v, by_column[j], z, m.column_high);
        if constexpr (!kFinite) {
          words[j] = __byte_perm(words[j], c, 0x4321);
        } else if (i % 2 == 0) {
          held[j] = c;
        } else {
          const std::uint32_t two = stream_pair::two_codes<kStochastic>(held[j], c, m.column_pair);
          words[j] = i == 1 ? two : stream_pair::four_codes(words[j], two);
        }
      }
      std::uint32_t two[4];
#pragma unroll
      for (int k = 0; k < 4; ++k)
        two[k] = stream_pair::two_codes<kStochastic>(codes[2 * k], codes[2 * k + 1], m.row_pair);
      const uint2 eight{stream_pair::four_codes(two[0], two[1]),
                        stream_pair::four_codes(two[2], two[3])};
      if (exists) *reinterpret_cast<uint2*>(row_to) = eight;
      block += blocks_of_row;
      row_to += m.cols;
    };
    if (finite) {
      fetch(next);
#pragma unroll
      for (int i = 0; i < kEach; ++i) encode(std::true_type{}, i, x[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kEach; ++i) coming[i][threadIdx.x] = x[i];
#pragma unroll
      for (std::uint32_t& w : words) w = 0;
#pragma unroll 1
      for (int i = 0; i < kEach; ++i) encode(std::false_type{}, i, coming[i][threadIdx.x]);
      fetch(next);
    }
#pragma unroll
    for (unsigned j = 0; j < 8; ++j)
      *reinterpret_cast<std::uint32_t*>(turned + put + j * kRows) = words[j];
    __syncthreads();
#pragma unroll
    for (unsigned k = 0; k < kCopies; ++k)
      if (has_chunk && col0 + column + k * kStride < m.cols)
        *reinterpret_cast<uint4*>(copy_to + k * kStride * std::int64_t{m.rows}) =
            *reinterpret_cast<const uint4*>(
                turned + ((get ^ (k * kStride / 8 * 2 * 16)) + k * kStride * kRows));
    copy_to += Tile::kColumns * m.strips * std::int64_t{m.rows};
    col = next;
  }
}

}  // namespace nibble::cuda::dlogits
