// What a thread group of the pair kernel (pair_stream.cuh) works on: arguments, shared memory,
// tiles.
#pragma once

#include "quant/cuda/one_pass.cuh"
#include "quant/kernels.h"
#include "tensor/cuda/column_blocks.cuh"
#include "tensor/cuda/fast_math.cuh"
#include "tensor/cuda/hopper.cuh"

namespace nibble::cuda::stream_pair {

using Kind = PairSource::Kind;

// A tile: kRun rows, which share a column's scale, of kColumns columns. A warp of its group has
// kWarpRows of them.
inline constexpr std::uint32_t kColumns = 64, kWarpRows = 32, kSlots = 3;
inline constexpr std::uint32_t kNotFinite = 0x7f800000;  // f32 bits of magnitudes from here on

template <class T>
struct Arguments {
  CUtensorMap x, other;                    // other: dy
  T* value;                                // may be null
  std::uint8_t *row_codes, *column_codes;  // column_codes may be null
  float *row_steps, *column_steps, *sums;  // sums: of 64 rows each [ceil(rows / 64), cols], or null
  std::uint32_t *row_most, *arrived;       // [groups, rows], then [runs, groups]
  std::uint32_t clears;                    // words of both that are to be zeros first
  std::uint32_t rows, cols, runs, across;  // runs of a column, tiles of a row
  std::uint32_t together, groups;          // tiles of a row's group, groups of a row
  std::uint32_t expected;                  // tiles that must have arrived before codes are made
  bool encodes;                            // else only row_most is found
  float row_high, column_high;
  float row_inverse, column_inverse;    // of the highest codes
  std::uint32_t row_pair, column_pair;  // the same in both 16-bit halves
  one_pass::Rule row_rule, column_rule;
  KeyedDraws keys;
};

// A block: groups of kRun threads that work on tiles of their own, then a clerk, a warp, for each.
template <class T, std::uint32_t kRun>
struct Groups {
  static constexpr std::uint32_t kWorkers = sizeof(T) == 2 ? 512 : 256, kCount = kWorkers / kRun;
  static constexpr std::uint32_t kBlock = kWorkers + kCount * kWarp;
  static constexpr std::uint32_t kTileBytes = kRun * kColumns * sizeof(T);
};

// A group's shared memory. Pairs: of this tile and the one before.
template <class T, std::uint32_t kRun>
struct alignas(128) Memory {
  static constexpr std::uint32_t kWarps = kRun / kWarpRows;
  // Magnitudes are f32 bits, of which bf16 needs the upper half.
  using Bits = std::conditional_t<sizeof(T) == 2, std::uint16_t, std::uint32_t>;
  static constexpr std::uint32_t kShift = sizeof(T) == 2 ? 16 : 0;

  T slots[kSlots][kRun * kColumns];
  alignas(16) float parts[2][kWarps / 2][kColumns];  // column sums of 32 rows, of odd warps
  alignas(16) float column_factor[2][kColumns];
  alignas(16) Bits column_most[2][kWarps][kColumns];
  Bits row_most[2][kRun];    // over the rows' groups
  std::uint32_t unusual[2];  // columns with NaN or infinities
  // Barriers: a slot is full, dy is there; the warps have surveyed a tile; the clerk has its
  // maxima; the warps have encoded it.
  std::uint64_t full[kSlots], full_dy[2], surveyed[2], ready[2], empty;
};

// Pairs of bf16 are taken apart as words, which the compiler does not find by itself.
__device__ inline void widen_four(const Vector<bfloat16, 4>& x, float* to) {
  const auto w = *reinterpret_cast<const uint2*>(&x);
  to[0] = std::bit_cast<float>(w.x << 16), to[1] = std::bit_cast<float>(w.x & 0xffff0000u);
  to[2] = std::bit_cast<float>(w.y << 16), to[3] = std::bit_cast<float>(w.y & 0xffff0000u);
}
__device__ inline void widen_four(const Vector<float, 4>& x, float* to) {
#pragma unroll
  for (int k = 0; k < 4; ++k) to[k] = x[k];
}

// rule.of_largest's step and what values are multiplied by, with the bits of divisions where those
// have no special cases; `parts_inverse` is 1 / rule.step.parts.
struct StepAndFactor {
  float step, factor;
  __device__ StepAndFactor(const one_pass::Rule& rule, float parts_inverse, std::uint32_t most) {
    float range = codec::mul(rule.range.value, std::bit_cast<float>(most));
    range = range < rule.step.floor ? rule.step.floor : range;
    if (range >= 0x1p-60f && range <= 0x1p60f) {
      step = codec::quotient(range, rule.step.parts, parts_inverse);
      factor = fast::reciprocal(step);
    } else {
      step = rule.of_largest(most);
      factor = codec::multiplier_of(step);
    }
  }
};

// Columns of a row that share a scale when not all do.
inline constexpr std::uint32_t kGroupColumns = 128;

struct Tile {
  std::uint32_t run, group, row0, col0;
  bool leads;  // of its rows' group
};
// A group's tiles, one after the other, without a division each.
template <std::uint32_t kRun, class T>
class Walk {
 public:
  __device__ Walk(const Arguments<T>& a, std::uint32_t first, std::uint32_t stride)
      : a_(a),
        run_(first / a.across),
        place_(first % a.across),
        runs_(stride / a.across),
        places_(stride % a.across) {}
  __device__ bool ended() const { return run_ >= a_.runs; }
  __device__ void advance() {
    run_ += runs_;
    place_ += places_;
    if (place_ >= a_.across) {
      place_ -= a_.across;
      ++run_;
    }
  }
  __device__ Tile tile() const {
    const std::uint32_t group = a_.groups == 1 ? 0 : place_ / (kGroupColumns / kColumns);
    return {run_, group, run_ * kRun, place_ * kColumns, group * a_.together == place_};
  }

 private:
  const Arguments<T>& a_;
  std::uint32_t run_, place_, runs_, places_;
};

}  // namespace nibble::cuda::stream_pair
