// The first half of the pair kernel (pair_stream.cuh): producers finish the values of a tile in
// shared memory, the largest magnitudes of rows and columns are taken and columns added up. A
// thread has 16 rows of 4 columns: the rows of a term of column_sum.
#pragma once

#include "quant/cuda/pair_gelu_table.cuh"
#include "quant/cuda/pair_tile.cuh"

namespace nibble::cuda::stream_pair {

inline constexpr std::uint32_t kDeep = 16, kAcross = kColumns / 4;
static_assert(kAcross * kWarpRows == kWarp * kDeep);

// ---- largest magnitudes -------------------------------------------------------------------------

// N words of a thread, one for each N-th of its kAcross lanes: every lane gets the maximum of its.
template <int N, class F>
__device__ std::uint32_t scatter_maxima(std::uint32_t (&words)[N], F larger) {
#pragma unroll
  for (int n = N; n > 1; n /= 2) {
    const unsigned distance = kAcross * n / (2 * N);
    const bool upper = threadIdx.x & distance;
#pragma unroll
    for (int k = 0; k < n / 2; ++k) {
      const std::uint32_t kept = upper ? words[k + n / 2] : words[k];
      const std::uint32_t sent = upper ? words[k] : words[k + n / 2];
      words[k] = larger(kept, __shfl_xor_sync(kFullMask, sent, distance));
    }
  }
  return words[0];
}

// Of kDeep rows and 4 columns, as f32 bits.
template <class T>
struct Largest;
// Pairs of bf16 magnitudes, whose signs mean nothing until the end. NaN stays NaN.
template <>
struct Largest<bfloat16> {
  std::uint32_t column[2] = {}, rows[kDeep / 2];

  __device__ static std::uint32_t larger(std::uint32_t a, std::uint32_t b) {
    std::uint32_t most;
    asm("max.NaN.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(most) : "r"(a), "r"(b));
    return most;
  }
  __device__ void add(std::uint32_t row, const Vector<bfloat16, 4>& x) {
    const auto w = *reinterpret_cast<const uint2*>(&x);
    column[0] = larger(column[0], w.x);
    column[1] = larger(column[1], w.y);
    const std::uint32_t pair = larger(w.x, w.y);
    std::uint32_t& both = rows[row / 2];
    both = row % 2 == 0 ? pair
                        : larger(__byte_perm(both, pair, 0x5410), __byte_perm(both, pair, 0x7632));
  }
  // Of the row of this lane's number.
  __device__ std::uint32_t row() {
    std::uint32_t two = scatter_maxima(rows, larger);
    two = larger(two, __shfl_xor_sync(kFullMask, two, 1));
    return threadIdx.x % 2 ? two & 0x7fff0000u : (two << 16) & 0x7fffffffu;
  }
  __device__ void columns(std::uint16_t* to) {
#pragma unroll
    for (std::uint32_t& two : column)
      two = larger(two, __shfl_xor_sync(kFullMask, two, kAcross)) & 0x7fff7fffu;
    if (threadIdx.x % kWarp < kAcross) *reinterpret_cast<uint2*>(to) = {column[0], column[1]};
  }
};
template <>
struct Largest<float> {
  std::uint32_t column[4] = {}, rows[kDeep];

  __device__ static std::uint32_t larger(std::uint32_t a, std::uint32_t b) { return ::max(a, b); }
  __device__ void add(std::uint32_t row, const Vector<float, 4>& x) {
    rows[row] = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const std::uint32_t m = std::bit_cast<std::uint32_t>(x[k]) & 0x7fffffffu;
      column[k] = ::max(column[k], m);
      rows[row] = ::max(rows[row], m);
    }
  }
  __device__ std::uint32_t row() { return scatter_maxima(rows, larger); }
  __device__ void columns(std::uint32_t* to) {
#pragma unroll
    for (std::uint32_t& m : column) m = ::max(m, __shfl_xor_sync(kFullMask, m, kAcross));
    if (threadIdx.x % kWarp < kAcross) store_row<4>(to, column);
  }
};

// ---- tiles --------------------------------------------------------------------------------------

// Values of the tile that `full` announces in `slot`, maxima and sums of this warp's rows; the
// maximum of row `lane`.
template <Kind kKind, class T, std::uint32_t kRun>
__device__ std::uint32_t survey(const Arguments<T>& a, Memory<T, kRun>& memory,
                                const hopper::Ring<kSlots>& slot, std::uint32_t number,
                                const Tile& tile, const std::uint32_t* table) {
  const std::uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x % kRun / kWarp;
  const std::uint32_t across = lane % kAcross, down = warp * kWarpRows + lane / kAcross * kDeep;
  const std::uint32_t row = tile.row0 + down, col = tile.col0 + across * 4;
  const bool valid = row < a.rows && col < a.cols;  // all: multiples of 16 rows, 8 columns
  const std::int64_t at = std::int64_t{row} * a.cols + col;
  const std::uint32_t parity = number % 2;
  T* const own = memory.slots[slot.stage] + down * kColumns + across * 4;
  Vector<T, 4> y[kDeep];
  hopper::wait(shared_address(&memory.full[slot.stage]), slot.parity);
  if constexpr (kKind == Kind::Plain) {
#pragma unroll
    for (std::uint32_t i = 0; i < kDeep; ++i) y[i] = load_vector<T, 4>(own + i * kColumns);
  } else {
    const T* dy = nullptr;
    if constexpr (kKind == Kind::GeluBackward) {
      hopper::wait(shared_address(&memory.full_dy[parity]), number / 2 % 2);
      dy = memory.slots[(slot.stage + 1) % kSlots] + (own - memory.slots[slot.stage]);
    }
    produce<kKind>(y, own, dy, valid, table);
    if (valid && a.value)
#pragma unroll
      for (std::uint32_t i = 0; i < kDeep; ++i)
        store_vector(a.value + at + std::int64_t{i} * a.cols, y[i]);
  }
  Largest<T> largest;
#pragma unroll
  for (std::uint32_t i = 0; i < kDeep; ++i) largest.add(i, y[i]);
  largest.columns(memory.column_most[parity][warp] + across * 4);
  if (a.sums) {
    float sum[4] = {};
#pragma unroll
    for (std::uint32_t i = 0; i < kDeep; i += 4) {
      float x[4][4];
#pragma unroll
      for (int k = 0; k < 4; ++k) widen_four(y[i + k], x[k]);
#pragma unroll
      for (int k = 0; k < 4; ++k) sum[k] += sum_four(x[0][k], x[1][k], x[2][k], x[3][k]);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) sum[k] += __shfl_xor_sync(kFullMask, sum[k], kAcross);
    float* const other = memory.parts[parity][warp / 2] + across * 4;
    if (warp % 2 == 1 && lane < kAcross) store_row<4>(other, sum);
    hopper::sync_threads(1 + threadIdx.x / 64, 64);
    if (warp % 2 == 0 && lane < kAcross && valid) {
      float all[4];
      load_row<4>(other, all);
#pragma unroll
      for (int k = 0; k < 4; ++k) all[k] += sum[k];
      store_row<4>(a.sums + std::int64_t{row / kSumRows} * a.cols + col, all);
    }
  }
  return largest.row();
}

}  // namespace nibble::cuda::stream_pair
