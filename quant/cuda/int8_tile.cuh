// Parts of the int8 tensor-core kernel (int_gemm_tiles.cu): tile shapes, the ring of stages that
// operands pass through, and a warp's sums.
#pragma once

#include "quant/cuda/mma_int8.cuh"
#include "quant/cuda/product.cuh"
#include "quant/segments.h"

namespace nibble::cuda {

inline constexpr int kStep = 128;  // codes of a stage: rows of 8 chunks of 16 bytes
inline constexpr int kChunks = kStep / 16;
inline constexpr int kDepth = 32;  // codes of one mma

// kRows × kCols results a thread block, kWarpRows × kWarpCols a warp, kStages steps under way,
// kBlocks thread blocks a multiprocessor.
template <int kRows_, int kCols_, int kWarpRows_, int kWarpCols_, int kStages_, int kBlocks_>
struct Tile {
  static constexpr int kRows = kRows_, kCols = kCols_, kWarpRows = kWarpRows_,
                       kWarpCols = kWarpCols_, kStages = kStages_, kBlocks = kBlocks_;
  static constexpr int kAcross = kCols / kWarpCols;  // warps
  static constexpr int kThreads = kRows / kWarpRows * kAcross * 32;
  static constexpr int kOperands = kRows + kCols;  // rows of a and b in a stage
  static constexpr int kPitch = kCols + 8;  // of staged results: conflict-free for pairs of floats
  static_assert(kThreads == kOperands, "each thread brings the scales of one operand row");
};

// When scales apply, in units of mma depth: after the whole contraction, after each 32 or 64 codes,
// or after a multiple of a step.
enum Schedule { kWhole = 0, kEvery32 = 1, kEvery64 = 2, kEverySteps = 4 };
constexpr int scale_slots(int schedule) { return schedule == kWhole ? 1 : 4 / schedule; }

// Shared memory: stages of codes (rows of a, then of b), their scales, results on their way out.
template <class Tile, int kSchedule>
struct SharedLayout {
  static constexpr std::uint32_t kStage = Tile::kOperands * kStep;
  static constexpr std::uint32_t kStageScales =
      scale_slots(kSchedule) * Tile::kOperands * sizeof(float);
  static constexpr std::uint32_t kScales = Tile::kStages * kStage;
  static constexpr std::uint32_t kResults = kScales + Tile::kStages * kStageScales;
  static constexpr std::uint32_t kBytes =
      kResults + Tile::kRows * Tile::kPitch * static_cast<std::uint32_t>(sizeof(float));
};

struct TileProblem {
  const std::int8_t *a, *b;  // rows of k codes
  Scales scales_a, scales_b;
  std::uint32_t m, n, k;      // k: a multiple of 16
  std::uint32_t blocks;       // of the contraction
  std::uint32_t block_steps;  // kEverySteps: steps of a block
  std::uint32_t unit_steps;   // of a unit of segments
  Segments segments;
  std::uint32_t down, across;  // tiles
  bool short_blocks;           // at most 256 codes: sums within ±2^22

  __device__ std::uint32_t tiles() const { return down * across; }
  __device__ std::uint32_t steps() const { return (k + kStep - 1) / kStep; }
  // The step after those of the segment that has `step`.
  __device__ std::uint32_t segment_end(std::uint32_t tile, std::uint32_t step) const {
    const std::uint32_t unit = step / unit_steps;
    return min(segments.end_unit(tile, unit) * unit_steps, steps());
  }
};

// float(sum) for |sum| ≤ 2^22 without a conversion: sums start at the bits of 1.5 · 2^23, whose
// mantissa then counts units.
inline constexpr float kOffset = 12582912.0f;
inline constexpr std::int32_t kOffsetBits = 0x4b400000;

// First row and column of a tile. Tiles come in groups of 8 rows of tiles, so that those under way
// share operands in the L2.
template <class Tile>
__device__ void locate(const TileProblem& p, std::uint32_t tile, std::uint32_t& row,
                       std::uint32_t& col) {
  constexpr std::uint32_t kGroup = 8;
  const std::uint32_t first = tile / (kGroup * p.across) * kGroup;
  const std::uint32_t height = min(kGroup, p.down - first), within = tile % (kGroup * p.across);
  row = (first + within % height) * Tile::kRows;
  col = within / height * Tile::kCols;
}

// Brings the stages of a thread block's tiles in order, with the scales that apply within them.
template <class Tile, int kSchedule>
class Loader {
  using Layout = SharedLayout<Tile, kSchedule>;
  static constexpr int kRowsAtOnce = Tile::kThreads / kChunks;
  static constexpr int kSlots = scale_slots(kSchedule);
  static_assert(kRowsAtOnce % 8 == 0, "a thread's rows must swap chunks alike");

 public:
  __device__ Loader(const TileProblem& problem, std::uint32_t shared)
      : p_(problem), shared_(shared), tile_(blockIdx.x) {
    enter_tile();
  }

  // Enqueues the next stage, if there is one, and closes its group of copies.
  __device__ void next() {
    if (tile_ < p_.tiles()) {
      stage();
      ring_ = ring_ + 1 == Tile::kStages ? 0 : ring_ + 1;
      if (++step_ == p_.steps()) {
        step_ = 0;
        tile_ += gridDim.x;
        if (tile_ < p_.tiles()) enter_tile();
      }
    }
    commit_copies();
  }

 private:
  __device__ void enter_tile() {
    std::uint32_t row0, col0;
    locate<Tile>(p_, tile_, row0, col0);
    rows_a_ = p_.m - row0;
    rows_b_ = p_.n - col0;
    const std::uint32_t r = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
    from_a_ = p_.a + static_cast<std::int64_t>(row0 + r) * p_.k + chunk * 16;
    from_b_ = p_.b + static_cast<std::int64_t>(col0 + r) * p_.k + chunk * 16;
    const bool of_a = threadIdx.x < Tile::kRows;
    const Scales& s = of_a ? p_.scales_a : p_.scales_b;
    const std::uint32_t row =
        of_a ? min(row0 + threadIdx.x, p_.m - 1) : min(col0 + threadIdx.x - Tile::kRows, p_.n - 1);
    scales_ = s.scales + s.index(row, 0);
    scale_columns_ = s.columns;
  }

  template <int kRows>
  __device__ void bring(std::uint32_t to, const std::int8_t* from, const std::int8_t* any,
                        std::uint32_t rows) const {
    const std::uint32_t r = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
    const std::uint32_t k0 = step_ * kStep;
    const bool inside = k0 + chunk * 16 < p_.k;
    to += r * kStep + (chunk ^ (r % 8)) * 16;
#pragma unroll
    for (std::uint32_t i = 0; i < kRows / kRowsAtOnce; ++i) {
      const std::uint32_t down = i * kRowsAtOnce;
      const bool valid = inside && r + down < rows;
      copy_async(to + down * kStep,
                 valid ? from + k0 + static_cast<std::int64_t>(down) * p_.k : any, valid ? 16 : 0);
    }
  }

  __device__ void stage() const {
    const std::uint32_t to = shared_ + ring_ * Layout::kStage;
    bring<Tile::kRows>(to, from_a_, p_.a, rows_a_);
    bring<Tile::kCols>(to + Tile::kRows * kStep, from_b_, p_.b, rows_b_);
    const std::uint32_t first = kSchedule == kWhole        ? 0
                                : kSchedule == kEverySteps ? step_ / p_.block_steps
                                                           : step_ * kSlots;
    const std::uint32_t scales_to =
        shared_ + Layout::kScales + ring_ * Layout::kStageScales + threadIdx.x * 4;
#pragma unroll
    for (std::uint32_t i = 0; i < kSlots; ++i)
      copy4_async(scales_to + i * Tile::kOperands * 4,
                  scales_ + (scale_columns_ == 1 ? 0 : min(first + i, p_.blocks - 1)));
  }

  const TileProblem& p_;
  std::uint32_t shared_;
  std::uint32_t tile_, step_ = 0, ring_ = 0;  // of the next stage
  std::uint32_t rows_a_, rows_b_;             // left from the tile's first
  const std::int8_t *from_a_, *from_b_;       // this thread's chunk of the first rows
  const float* scales_;                       // of this thread's operand row
  std::uint32_t scale_columns_;
};

// A warp's part of a tile: two sets of sums, int32 of the current contraction block and f32
// results.
template <class Tile, int kSchedule, bool kSharedB>
struct WarpTile {
  static constexpr int kDown = Tile::kWarpRows / 16, kAcross = Tile::kWarpCols / 8;

  std::int32_t sums[kDown][kAcross][4];
  float results[kDown][kAcross][4];
  std::uint32_t a[2][kDown][4], b[2][kAcross / 2][4];  // the next depth loads while one multiplies
  std::uint32_t row, col;                              // within the tile
  std::uint32_t address_a, address_b;                  // of this lane's ldmatrix row in a stage
  std::uint32_t chunk_a, chunk_b, flip;

  __device__ WarpTile() {
    const std::uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    row = warp / Tile::kAcross * Tile::kWarpRows;
    col = warp % Tile::kAcross * Tile::kWarpCols;
    // a's four matrices: rows 0-7 and 8-15 of the first 16 bytes, then of the next 16. b's: the
    // first and next 16 bytes of columns 0-7, then of columns 8-15.
    address_a = (row + lane % 16) * kStep;
    chunk_a = lane / 16;
    address_b = (Tile::kRows + col + lane / 16 * 8 + lane % 8) * kStep;
    chunk_b = lane / 8 % 2;
    flip = lane % 8;
  }

  __device__ void clear_results() {
#pragma unroll
    for (int i = 0; i < kDown; ++i)
#pragma unroll
      for (int j = 0; j < kAcross; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) results[i][j][e] = 0;
  }
  __device__ void clear(std::int32_t start) {
#pragma unroll
    for (int i = 0; i < kDown; ++i)
#pragma unroll
      for (int j = 0; j < kAcross; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[i][j][e] = start;
  }
  __device__ void load(std::uint32_t stage, int depth) {
    const int to = depth % 2;
#pragma unroll
    for (int i = 0; i < kDown; ++i)
      load_matrices(a[to][i], stage + address_a + static_cast<std::uint32_t>(i) * 16 * kStep +
                                  ((2u * static_cast<std::uint32_t>(depth) + chunk_a) ^ flip) * 16);
#pragma unroll
    for (int j = 0; j < kAcross / 2; ++j)
      load_matrices(b[to][j], stage + address_b + static_cast<std::uint32_t>(j) * 16 * kStep +
                                  ((2u * static_cast<std::uint32_t>(depth) + chunk_b) ^ flip) * 16);
  }
  __device__ void multiply(int depth) {
    const int from = depth % 2;
#pragma unroll
    for (int i = 0; i < kDown; ++i)
#pragma unroll
      for (int j = 0; j < kAcross; ++j)
        int8::multiply(sums[i][j], a[from][i], b[from][j / 2][j % 2 * 2],
                       b[from][j / 2][j % 2 * 2 + 1]);
  }

  // Applies a block's scales (shared memory: rows of a, then of b) to its sums.
  template <class Convert>
  __device__ void rescale(const float* scales, Convert convert) {
    const std::uint32_t lane = threadIdx.x % 32;
    const float* const sa = scales + row + lane / 4;
    const float* const sb = scales + Tile::kRows + col + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < kDown; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float down = sa[i * 16 + half * 8];
        const float same = kSharedB ? __fmul_rn(down, sb[0]) : 0.0f;
#pragma unroll
        for (int j = 0; j < kAcross; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float sum = convert(sums[i][j][half * 2 + e]);
            float& f = results[i][j][half * 2 + e];
            if constexpr (kSchedule == kWhole)
              f = scale_whole(sum, down, sb[j * 8 + e]);
            else
              f = __fmaf_rn(sum, kSharedB ? same : __fmul_rn(down, sb[j * 8 + e]), f);
          }
      }
  }
  __device__ void apply(const float* scales, bool offset) {
    if (offset)
      rescale(scales, [](std::int32_t x) { return __fsub_rn(__int_as_float(x), kOffset); });
    else
      rescale(scales, [](std::int32_t x) { return __int2float_rn(x); });
  }

  // Adds the results to the staged ones, or writes them where there are none yet.
  __device__ void write(float* staged, bool first) const {
    const std::uint32_t lane = threadIdx.x % 32;
    float* const to = staged + (row + lane / 4) * Tile::kPitch + col + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < kDown; ++i)
#pragma unroll
      for (int j = 0; j < kAcross; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          store2(to + (i * 16 + half * 8) * Tile::kPitch + j * 8, results[i][j][half * 2],
                 results[i][j][half * 2 + 1], first);
  }

 private:
  __device__ static void store2(float* to, float x, float y, bool first) {
    const auto before = first ? Vector<float, 2>{} : load_vector<float, 2>(to);
    store_vector(to,
                 first ? Vector<float, 2>{{x, y}}
                       : Vector<float, 2>{{__fadd_rn(before.v[0], x), __fadd_rn(before.v[1], y)}});
  }
};

}  // namespace nibble::cuda
