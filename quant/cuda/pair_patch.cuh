// What a block of the pair kernel (pair.cuh) works on: its arguments, shared memory and place.
#pragma once

#include "quant/cuda/one_pass.cuh"
#include "quant/kernels.h"
#include "tensor/cuda/column_blocks.cuh"
#include "tensor/cuda/hopper.cuh"

namespace nibble::cuda::pair {

using Kind = PairSource::Kind;

inline constexpr int kRows = static_cast<int>(kPairRows);
inline constexpr int kWarps = 12, kBlock = kWarps * static_cast<int>(kWarp);
inline constexpr std::uint32_t kAcross = 8, kTile = 8 * kAcross;  // lanes, columns of a warp's tile
inline constexpr std::uint32_t kDepth = kRows / (kWarp / kAcross);  // rows of a lane
static_assert(kRows == kSumRows && kDepth == 16);

// Philox's keys of each round as launch parameters: instructions read them where they lie, where
// adding them up takes two of the eight operations of a round.
struct RoundKeys {
  std::uint32_t k[10][2];
  explicit RoundKeys(std::uint64_t seed) {
    for (std::uint32_t i = 0; i < 10; ++i) {
      k[i][0] = static_cast<std::uint32_t>(seed) + i * 0x9E3779B9u;
      k[i][1] = static_cast<std::uint32_t>(seed >> 32) + i * 0xBB67AE85u;
    }
  }
  // Draws16::block's bits.
  __device__ Philox block(std::uint64_t index, std::uint32_t site, std::uint32_t step) const {
    std::uint32_t c0 = static_cast<std::uint32_t>(index),
                  c1 = static_cast<std::uint32_t>(index >> 32), c2 = site, c3 = step;
#pragma unroll
    for (int i = 0; i < 10; ++i) {
      const std::uint64_t a = 0xD2511F53ull * c0, b = 0xCD9E8D57ull * c2;
      c0 = static_cast<std::uint32_t>(b >> 32) ^ c1 ^ k[i][0];
      c1 = static_cast<std::uint32_t>(b);
      c2 = static_cast<std::uint32_t>(a >> 32) ^ c3 ^ k[i][1];
      c3 = static_cast<std::uint32_t>(a);
    }
    return {{c0, c1, c2, c3}};
  }
};

template <class T>
struct Arguments {
  const T *x, *other;                      // other: dy
  T* value;                                // may be null
  std::uint8_t *row_codes, *column_codes;  // column_codes may be null
  float *row_steps, *column_steps;
  float* sums;                      // of 64 rows each [ceil(rows / 64), cols]; may be null
  std::uint32_t rows, cols, width;  // width: of a slice
  std::uint32_t runs;               // of a column
  std::uint32_t down, slices;       // blocks of a cluster
  std::uint32_t log_group, groups;  // columns of a row's scale; how many a slice has
  float row_high, column_high;
  one_pass::Rule row_rule, column_rule;
  RngKey key;
  RoundKeys keys;
};

// A block's shared memory; factors are what values are multiplied by.
template <class T>
struct Patch {
  T* values;                              // [kRows][pitch]
  std::uint32_t *row_most, *column_most;  // [groups][kRows], [pitch]
  float *row_factor, *column_factor;      // of grouped rows in row_most's place
  std::uint64_t* barrier;
  std::uint32_t pitch;

  __device__ Patch(unsigned char* memory, std::uint32_t width, std::uint32_t groups)
      : values(reinterpret_cast<T*>(memory)), pitch(width) {
    column_most = reinterpret_cast<std::uint32_t*>(values + kRows * width);
    column_factor = reinterpret_cast<float*>(column_most + width);
    row_most = column_most + 2 * width;
    row_factor = reinterpret_cast<float*>(row_most + (groups > 1 ? 0 : kRows));
    barrier = reinterpret_cast<std::uint64_t*>(row_factor + groups * kRows);
  }
  static std::size_t bytes(std::uint32_t width, std::uint32_t groups) {
    return kRows * width * sizeof(T) + 8 * width + (groups > 1 ? 4 : 8) * groups * kRows + 8;
  }
  __device__ T* at(std::uint32_t row, std::uint32_t col) const {
    return values + row * pitch + col;
  }
};

// What this block works on.
struct Place {
  std::uint32_t band, down, slice, row0, rows, col0, cols;
  template <class T>
  __device__ explicit Place(const Arguments<T>& a) {
    const std::uint32_t rank = hopper::cluster_rank();
    band = blockIdx.x / (a.down * a.slices);
    down = rank / a.slices;
    slice = rank % a.slices;
    row0 = (band * a.down + down) * kRows;
    rows = row0 < a.rows ? min(std::uint32_t{kRows}, a.rows - row0) : 0;
    col0 = slice * a.width;
    cols = min(a.width, a.cols - col0);
  }
};

}  // namespace nibble::cuda::pair
