// The second half of the pair kernel (pair_stream.cuh): both codes of every element of a tile. A
// thread has 8 rows of 8 columns: codes of 8 neighbours leave together in either matrix.
#pragma once

#include "quant/cuda/pair_tile.cuh"

namespace nibble::cuda::stream_pair {

inline constexpr std::uint32_t kEight = 8, kLanes = kColumns / kEight;
static_assert(kLanes * kWarpRows == kWarp * kEight);

// 2^32 times the centred noise of draw j: one conversion, where one_pass::noise_of takes three
// instructions; the addition that follows scales.
__device__ inline float scaled_noise(const Philox& draws, int j) {
  const std::uint32_t two = draws.v[j / 2];
  const std::uint32_t bits =
      j % 2 ? (two & 0xffff0000u) ^ 0x80008000u : two * 0x10000u + 0x80008000u;
  return static_cast<float>(static_cast<std::int32_t>(bits));
}
// Four quotients, rounded into the low bits of floats, to codes. Noise may lead a little above the
// highest code, not below the lowest: |x / step| is at most the highest, which is odd.
template <bool kStochastic>
__device__ std::uint32_t two_codes(std::uint32_t a, std::uint32_t b, std::uint32_t high) {
  const std::uint32_t two = __byte_perm(a, b, 0x5410);
  return kStochastic ? __vmins2(two, high) : two;
}
__device__ inline std::uint32_t four_codes(std::uint32_t ab, std::uint32_t cd) {
  return __byte_perm(ab, cd, 0x6420);
}

template <class T>
__device__ void load_eight(const T* p, float (&to)[8]) {
#pragma unroll
  for (int k = 0; k < 8; k += 4) widen_four(load_vector<T, 4>(p + k), to + k);
}

// Where a thread's rows and columns lie.
struct Patch {
  std::uint32_t row, col;
  std::int64_t at;       // in the matrix
  std::uint8_t* turned;  // null when not wanted
  __device__ std::uint32_t block(std::uint32_t i, std::uint32_t cols) const {
    return static_cast<std::uint32_t>(at / 8) + i * (cols / 8);  // of draws
  }
};

// Rows and columns of finite numbers: NaN alone needs codec::encode_integer's comparisons.
template <bool kStochastic, class T>
__device__ void encode_usual(const Arguments<T>& a, const T* from, const Patch& here,
                             const float (&by_row)[8], const float (&by_column)[8],
                             const KeyedDraws::Stream& draws) {
  std::uint32_t held[8], pairs[8], words[2][8];
#pragma unroll
  for (std::uint32_t i = 0; i < kEight; ++i) {
    float x[8];
    load_eight(from + i * kColumns, x);
    Philox noise{};
    if constexpr (kStochastic) noise = draws.block(here.block(i, a.cols));
    std::uint32_t row[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      float r = codec::mul(x[j], by_row[i]), c = codec::mul(x[j], by_column[j]);
      if constexpr (kStochastic) {
        const float n = scaled_noise(noise, j);
        r = std::fma(n, 0x1p-32f, r);
        c = std::fma(n, 0x1p-32f, c);
      }
      row[j] = std::bit_cast<std::uint32_t>(codec::add(r, codec::kRoundMagic));
      const auto column = std::bit_cast<std::uint32_t>(codec::add(c, codec::kRoundMagic));
      if (i % 2 == 0) {
        held[j] = column;
      } else {
        const std::uint32_t two = two_codes<kStochastic>(held[j], column, a.column_pair);
        if (i % 4 == 1)
          pairs[j] = two;
        else
          words[i / 4][j] = four_codes(pairs[j], two);
      }
    }
    std::uint32_t two[4];
#pragma unroll
    for (int k = 0; k < 4; ++k)
      two[k] = two_codes<kStochastic>(row[2 * k], row[2 * k + 1], a.row_pair);
    *reinterpret_cast<uint2*>(a.row_codes + here.at + std::int64_t{i} * a.cols) = {
        four_codes(two[0], two[1]), four_codes(two[2], two[3])};
  }
  if (!here.turned) return;
#pragma unroll
  for (std::uint32_t j = 0; j < 8; ++j)
    *reinterpret_cast<uint2*>(here.turned + std::int64_t{j} * a.rows) = {words[0][j], words[1][j]};
}

// Any numbers, one by one. fminf makes the largest code of NaN.
template <bool kStochastic, class T>
__device__ void encode_unusual(const Arguments<T>& a, const T* from, const Patch& here,
                               float (&by_row)[8], const float (&by_column)[8],
                               const KeyedDraws::Stream& draws) {
#pragma unroll 1
  for (std::uint32_t i = 0; i < kEight; ++i) {
    float x[8];
    load_eight(from + i * kColumns, x);
    Philox noise{};
    if constexpr (kStochastic) noise = draws.block(here.block(i, a.cols));
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float n = kStochastic ? one_pass::noise_of(noise, j) : 0.0f;
      const auto code = [&](float factor, float high) {
        const float y = codec::mul(x[j], factor);
        return static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(
            codec::add(fminf(kStochastic ? codec::add(y, n) : y, high), codec::kRoundMagic)));
      };
      a.row_codes[here.at + std::int64_t{i} * a.cols + j] = code(by_row[0], a.row_high);
      if (here.turned)
        here.turned[std::int64_t{j} * a.rows + i] = code(by_column[j], a.column_high);
    }
#pragma unroll
    for (int k = 0; k < 7; ++k) by_row[k] = by_row[k + 1];  // an index would put it in memory
  }
}

// The tile that survey() left in `slot`.
template <bool kStochastic, class T, std::uint32_t kRun>
__device__ void encode(const Arguments<T>& a, Memory<T, kRun>& memory, const T* slot,
                       std::uint32_t parity, const Tile& tile, const KeyedDraws::Stream& draws) {
  const std::uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x % kRun / kWarp;
  const std::uint32_t first = tile.row0 + warp * kWarpRows;
  // Each lane's row.
  const std::uint32_t most = std::uint32_t{memory.row_most[parity][warp * kWarpRows + lane]}
                             << memory.kShift;
  const StepAndFactor scale(a.row_rule, a.row_inverse, most);
  if (tile.leads && first + lane < a.rows)
    a.row_steps[std::int64_t{first + lane} * a.groups + tile.group] = scale.step;
  const bool unusual = __any_sync(kFullMask, most >= kNotFinite) || memory.unusual[parity] != 0;
  const std::uint32_t across = lane % kLanes * 8, down = lane / kLanes * kEight;
  float by_row[8], by_column[8];
#pragma unroll
  for (std::uint32_t i = 0; i < kEight; ++i)
    by_row[i] = __shfl_sync(kFullMask, scale.factor, down + i);
  load_row<8>(memory.column_factor[parity] + across, by_column);
  Patch here{first + down, tile.col0 + across, 0, nullptr};
  if (here.row >= a.rows || here.col >= a.cols) return;
  here.at = std::int64_t{here.row} * a.cols + here.col;
  if (a.column_codes) here.turned = a.column_codes + std::int64_t{here.col} * a.rows + here.row;
  const T* const from = slot + (warp * kWarpRows + down) * kColumns + across;
  if (unusual)
    encode_unusual<kStochastic>(a, from, here, by_row, by_column, draws);
  else
    encode_usual<kStochastic>(a, from, here, by_row, by_column, draws);
}

}  // namespace nibble::cuda::stream_pair
