// Both encodings of dlogits without dlogits (quant_dlogits), in two passes over the logits.
//
// The first finds a row's loss and log-sum-exp and the step of its codes: (softmax − onehot) rises
// with the logit, so its largest magnitude is that of the largest logit but the target's, or the
// target's. It reads 2 bytes an element, with one exponential (16 a clock): at 75 % of the memory's
// rate.
//
// The second takes tiles of a group of tokens and 32 columns: it forms the values in registers,
// finds the columns' steps, and encodes every value twice with one draw; column codes are turned in
// shared memory. It reads 2 bytes an element and writes 1 + 1, with 25 instructions, 37 with noise:
// half of a copy's rate, bound by instructions. tests/bench/results/2026-11-29-classifier.md.
#include <algorithm>

#include "quant/cuda/one_pass.cuh"
#include "quant/kernels.h"
#include "tensor/cuda/loss.cuh"

namespace nibble::cuda {
namespace {

using one_pass::Rule;

// What the second pass reads of a row: 16 bytes.
struct alignas(16) RowFacts {
  float lse, step;
  std::int32_t target;      // −1: ignored
  std::uint32_t at_target;  // the value there, as the bits of a bf16
};

__device__ std::uint32_t rounded_bits(float x) { return bfloat16(x).bits; }

template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock)
    facts_kernel(RowFacts* facts, float* losses, float* steps, const bfloat16* logits,
                 const std::int32_t* targets, const float* scale, std::int64_t rows, int cols,
                 const __grid_constant__ Rule rule) {
  using T = bfloat16;
  __shared__ float scratch[3][Tile::kBlockWarps];
  const std::int64_t row = Tile::row();
  const int n = row < rows ? cols : 0;
  const int target = n > 0 ? loss::column_of(targets[row], n) : -1;
  const T* from = logits + row * cols;
  const loss::Statistics found = loss::statistics_of<T, Tile, true>(
      n, target, scratch,
      [&](std::int64_t first, int, auto& x) { loss::load_batch<T, Tile>(from, n, first, x); });
  if (n == 0 || Tile::thread() != 0) return;
  RowFacts f{found.lse, 0, target, 0};
  std::uint32_t most = 0;
  if (target >= 0) {
    const float x = to_float(from[target]), factor = *scale;
    f.at_target = rounded_bits(loss::gradient_of<T>(x, found.lse, factor, true));
    const std::uint32_t other =
        rounded_bits(loss::gradient_of<T>(found.others, found.lse, factor, false));
    most = ::max(f.at_target & 0x7fffu, other & 0x7fffu) << 16;
    losses[row] = found.lse - x;
  } else {
    losses[row] = 0;
  }
  f.step = rule.of_largest(most);
  steps[row] = f.step;
  facts[row] = f;
}

// A tile of tokens and columns: thread (across, down) has rows 4 · down … of columns 8 · across …
template <int kTokens>
struct TokenTile {
  static constexpr int kRows = kTokens, kColumns = 32, kEach = 4, kChunks = kRows / 16;
  static constexpr int kAcross = kColumns / 8, kBlock = kRows / kEach * kAcross;
};

struct Matrices {
  std::uint8_t *row_codes, *column_codes;
  float* column_steps;
  const bfloat16* logits;
  const RowFacts* facts;
  const float* scale;
  std::uint32_t rows, cols, runs, tiles, strips;
  float row_high, column_high;
};

// A code in the low byte: codec::encode_integer's for quotients that are not below the lowest code;
// fminf makes the largest of NaN, as there.
template <bool kStochastic>
__device__ std::uint32_t code_of(float x, float factor, float noise, float high) {
  float y = codec::mul(x, factor);
  if constexpr (kStochastic) y = codec::add(y, noise);
  return std::bit_cast<std::uint32_t>(codec::add(fminf(y, high), codec::kRoundMagic));
}

// Eight logits of a row become their gradient.
__device__ void differentiate(uint4& raw, const RowFacts& f, float factor, std::uint32_t col) {
  const auto x = widened<bfloat16>(*reinterpret_cast<const Vector<bfloat16, 8>*>(&raw));
  Vector<float, 8> y;
#pragma unroll
  for (int j = 0; j < 8; ++j) y[j] = loss::gradient_of<bfloat16>(x[j], f.lse, factor, false);
  const Vector<bfloat16, 8> rounded = narrowed<bfloat16>(y);
  raw = *reinterpret_cast<const uint4*>(&rounded);
  const std::uint32_t ahead = static_cast<std::uint32_t>(f.target) - col;
  if (f.target < 0) {
    raw = {};
  } else if (ahead < 8) {
    const std::uint32_t place = ahead % 2 ? 0x5410 : 0x3254;
    if (ahead / 2 == 0) raw.x = __byte_perm(raw.x, f.at_target, place);
    if (ahead / 2 == 1) raw.y = __byte_perm(raw.y, f.at_target, place);
    if (ahead / 2 == 2) raw.z = __byte_perm(raw.z, f.at_target, place);
    if (ahead / 2 == 3) raw.w = __byte_perm(raw.w, f.at_target, place);
  }
}
__device__ std::uint32_t word_of(const uint4& x, int w) {
  return w == 0 ? x.x : w == 1 ? x.y : w == 2 ? x.z : x.w;
}

// A multiprocessor's blocks: more of them would spill, or wait for loads that come too late.
template <class Tile>
constexpr int kResident = 768 / Tile::kBlock;

// Each block takes a strip of tiles of one group of tokens, whose rows' facts it keeps; the next
// tile is on its way while this one is encoded.
template <class Tile, bool kStochastic>
__global__ void __launch_bounds__(Tile::kBlock, kResident<Tile>)
    codes_kernel(const __grid_constant__ Matrices m, const __grid_constant__ Rule column_rule,
                 const __grid_constant__ KeyedDraws keys) {
  constexpr unsigned kWarps = Tile::kBlock / kWarp;
  __shared__ RowFacts facts[Tile::kRows];
  __shared__ std::uint32_t most[kWarps][Tile::kAcross * 4];
  alignas(16) __shared__ float factors[Tile::kColumns];
  __shared__ uint4 turned[Tile::kColumns * Tile::kChunks];
  const unsigned across = threadIdx.x % Tile::kAcross, down = threadIdx.x / Tile::kAcross;
  // Neighbouring blocks take neighbouring strips of the same rows.
  const std::uint32_t strip = blockIdx.x % m.strips, run = blockIdx.x / m.strips;
  const std::uint32_t row0 = run * Tile::kRows, last = min(row0 + Tile::kRows, m.rows) - 1;
  const std::uint32_t first = row0 + down * Tile::kEach;
  const std::uint32_t end = (strip + 1) * m.tiles / m.strips;
  const KeyedDraws::Stream draws = keys.stream(kStochastic);
  const float factor = *m.scale;
  for (unsigned i = threadIdx.x; i < Tile::kRows; i += Tile::kBlock) {
    RowFacts f = m.facts[min(row0 + i, last)];
    f.step = codec::multiplier_of(f.step);
    facts[i] = f;
  }

  uint4 x[Tile::kEach];  // logits, then their gradient
  const auto column_of_tile = [&](std::uint32_t tile) {
    return min(tile * Tile::kColumns + across * 8, m.cols - 8);
  };
  const auto load = [&](int i, std::uint32_t col) {
    // Past the end the last row once more: it changes no maximum.
    const std::uint32_t row = min(first + i, last);
    x[i] = *reinterpret_cast<const uint4*>(m.logits + std::int64_t{row} * m.cols + col);
  };
  std::uint32_t tile = strip * m.tiles / m.strips, col = column_of_tile(tile);
#pragma unroll
  for (int i = 0; i < Tile::kEach; ++i) load(i, col);
  __syncthreads();

#pragma unroll 1
  for (; tile < end; ++tile) {
    const std::uint32_t col0 = tile * Tile::kColumns;
    std::uint32_t maxima[4] = {};
#pragma unroll
    for (int i = 0; i < Tile::kEach; ++i) {
      differentiate(x[i], facts[down * Tile::kEach + i], factor, col);
#pragma unroll
      for (int w = 0; w < 4; ++w) maxima[w] = __vmaxu2(maxima[w], word_of(x[i], w) & 0x7fff7fffu);
    }
#pragma unroll
    for (int distance = Tile::kAcross; distance < static_cast<int>(kWarp); distance *= 2)
#pragma unroll
      for (std::uint32_t& w : maxima) w = __vmaxu2(w, __shfl_xor_sync(kFullMask, w, distance));
    if (threadIdx.x % kWarp < Tile::kAcross)
#pragma unroll
      for (int w = 0; w < 4; ++w) most[threadIdx.x / kWarp][across * 4 + w] = maxima[w];
    __syncthreads();
    if (const unsigned c = threadIdx.x; c < Tile::kColumns) {
      std::uint32_t all = 0;
#pragma unroll
      for (unsigned w = 0; w < kWarps; ++w) all = __vmaxu2(all, most[w][c / 2]);
      const float step = column_rule.of_largest(c % 2 ? all & 0xffff0000u : all << 16);
      factors[c] = codec::multiplier_of(step);
      if (col0 + c < m.cols) m.column_steps[std::int64_t{col0 + c} * m.runs + run] = step;
    }
    __syncthreads();

    float by_column[8];
    load_row<8>(factors + across * 8, by_column);
    const bool exists = col0 + across * 8 < m.cols;
    const std::uint32_t next = column_of_tile(min(tile + 1, end - 1));
    std::uint32_t words[8];
#pragma unroll
    for (int i = 0; i < Tile::kEach; ++i) {
      const std::int64_t at = std::int64_t{first + i} * m.cols + col;
      const float by_row = facts[down * Tile::kEach + i].step;
      Philox noise{};
      if constexpr (kStochastic) noise = draws.block(static_cast<std::uint64_t>(at) / 8);
      std::uint32_t codes[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const std::uint32_t pair = word_of(x[i], j / 2);
        const auto v = std::bit_cast<float>(j % 2 ? pair & 0xffff0000u : pair << 16);
        const float z = kStochastic ? one_pass::noise_of(noise, j) : 0.0f;
        codes[j] = code_of<kStochastic>(v, by_row, z, m.row_high);
        const std::uint32_t c = code_of<kStochastic>(v, by_column[j], z, m.column_high);
        constexpr std::uint32_t kPlace[4] = {0, 0x3240, 0x3410, 0x4210};
        words[j] = i == 0 ? c : __byte_perm(words[j], c, kPlace[i]);
      }
      load(i, next);
      if (exists && first + i <= last)
        *reinterpret_cast<uint2*>(m.row_codes + at) = {
            one_pass::low_bytes(codes[0], codes[1], codes[2], codes[3]),
            one_pass::low_bytes(codes[4], codes[5], codes[6], codes[7])};
    }
    // Where a column's 16 codes number `chunk` lie: a warp's writes and reads meet all banks.
    const auto place = [](unsigned column, unsigned chunk) {
      return column * Tile::kChunks + (chunk ^ column / 8 * 2);
    };
#pragma unroll
    for (unsigned j = 0; j < 8; ++j)
      reinterpret_cast<std::uint32_t*>(turned + place(across * 8 + j, down / 4))[down % 4] =
          words[j];
    __syncthreads();
    const std::uint32_t chunks = (last - row0 + 1) / 16;
#pragma unroll
    for (unsigned i = threadIdx.x; i < Tile::kColumns * Tile::kChunks; i += Tile::kBlock) {
      const unsigned c = i / Tile::kChunks, chunk = i % Tile::kChunks;
      if (col0 + c < m.cols && chunk < chunks)
        *reinterpret_cast<uint4*>(m.column_codes + std::int64_t{col0 + c} * m.rows + row0 +
                                  chunk * 16) = turned[place(c, chunk)];
    }
    col = next;
  }
}

template <class Tile>
void codes_of_tiles(Matrices m, const QuantSpec& by_column, const RngKey& key) {
  m.runs = static_cast<std::uint32_t>(ceil_div(m.rows, Tile::kRows));
  m.tiles = static_cast<std::uint32_t>(ceil_div(m.cols, Tile::kColumns));
  // One wave of blocks.
  const auto blocks = static_cast<std::uint32_t>(multiprocessors() * kResident<Tile>);
  m.strips = std::clamp(blocks / m.runs, 1u, m.tiles);
  const auto run = [&](auto kernel) {
    launch(kernel, m.runs * m.strips, Tile::kBlock, 0, m, Rule(by_column), KeyedDraws(key));
  };
  if (by_column.rounding == Rounding::Stochastic)
    run(codes_kernel<Tile, true>);
  else
    run(codes_kernel<Tile, false>);
}

}  // namespace

void quant_dlogits(Tensor& row_codes, Tensor& row_scales, Tensor& column_codes,
                   Tensor& column_scales, Tensor& losses, const Tensor& logits,
                   const Tensor& targets, const Tensor& scale, const QuantSpec& by_row,
                   const QuantSpec& by_column, const RngKey& key) {
  const std::int64_t rows = logits.size(0), cols = logits.size(1);
  const Tensor found = Tensor::empty({rows, 4}, DType::F32, logits.device());
  auto* const facts = reinterpret_cast<RowFacts*>(const_cast<std::byte*>(found.raw()));
  loss::with_tile<true>(row_length("quantize", logits), [&](auto tile) {
    using Tile = decltype(tile);
    launch(facts_kernel<Tile>, Tile::blocks(rows), Tile::kBlock, 0, facts, losses.data<float>(),
           row_scales.data<float>(), logits.data<bfloat16>(), targets.data<std::int32_t>(),
           scale.data<float>(), rows, static_cast<int>(cols), Rule(by_row));
  });
  const Matrices m{.row_codes = reinterpret_cast<std::uint8_t*>(row_codes.raw()),
                   .column_codes = reinterpret_cast<std::uint8_t*>(column_codes.raw()),
                   .column_steps = column_scales.data<float>(),
                   .logits = logits.data<bfloat16>(),
                   .facts = facts,
                   .scale = scale.data<float>(),
                   .rows = checked_extent(rows),
                   .cols = checked_extent(cols),
                   .runs = 0,
                   .tiles = 0,
                   .strips = 0,
                   .row_high = static_cast<float>(by_row.format.qmax()),
                   .column_high = static_cast<float>(by_column.format.qmax())};
  if (by_column.resolve(cols, rows).cols == 256)
    codes_of_tiles<TokenTile<256>>(m, by_column, key);
  else
    codes_of_tiles<TokenTile<128>>(m, by_column, key);
}

}  // namespace nibble::cuda
