// int8 products on tensor cores that scale in registers: the route of scales that change along the
// contraction (groups and blocks), and of products too short to pay for an int32 result in memory.
// Moves a and b once for every column (row) of tiles, mostly from the L2, and writes c once;
// 2·m·n·k operations with mma.sync.m16n8k32, whose ceiling on an H200 is about 0.6 of the 1979
// TOP/s that wgmma has.
//
// A thread block owns a tile of c, walks the contraction in steps of 128 codes that cp.async brings
// into a ring of stages, and holds two sets of sums: int32 of the current contraction block, and
// the f32 results. At the end of a block one fma a result, in ascending order, whatever the tile.
#include <algorithm>

#include "quant/cuda/mma_int8.cuh"
#include "quant/cuda/product.cuh"

namespace nibble::cuda {
namespace {

constexpr int kStep = 128;  // codes of a stage: rows of 8 chunks of 16 bytes
constexpr int kChunks = kStep / 16;
constexpr int kDepth = 32;  // codes of one mma
constexpr int kStages = 4;

// kRows × kCols results a thread block, kWarpRows × kWarpCols a warp.
template <int kRows_, int kCols_, int kWarpRows_, int kWarpCols_>
struct Tile {
  static constexpr int kRows = kRows_, kCols = kCols_, kWarpRows = kWarpRows_,
                       kWarpCols = kWarpCols_;
  static constexpr int kAcross = kCols / kWarpCols;
  static constexpr int kThreads = kRows / kWarpRows * kAcross * 32;
  static constexpr int kOperands = kRows + kCols;  // rows of a and b in a stage
  static constexpr int kPitch = kCols + 8;  // of staged results: conflict-free for pairs of floats
  static_assert(kThreads == kOperands, "each thread brings the scales of one operand row");
};
using Large = Tile<128, 128, 64, 32>;
using Small = Tile<64, 64, 32, 32>;

// Where scales apply, in units of mma depth: after the whole contraction, after each 32 or 64
// codes, or after each multiple of a step.
enum Schedule { kWhole = 0, kEvery32 = 1, kEvery64 = 2, kEverySteps = 4 };
constexpr int scale_slots(int schedule) { return schedule == kWhole ? 1 : 4 / schedule; }

template <class Tile, int kSchedule>
constexpr std::size_t shared_bytes() {
  const std::size_t codes = std::size_t{kStages} * Tile::kOperands * kStep;
  const std::size_t scales =
      std::size_t{kStages} * scale_slots(kSchedule) * Tile::kOperands * sizeof(float);
  const std::size_t results = std::size_t{Tile::kRows} * Tile::kPitch * sizeof(float);
  return std::max(codes + scales, results);
}

struct Problem {
  const std::int8_t *a, *b;  // rows of k codes
  Scales scales_a, scales_b;
  std::uint32_t m, n, k;       // k: a multiple of 16
  std::uint32_t blocks;        // of the contraction
  std::uint32_t block_steps;   // kEverySteps: steps of a block
  std::uint32_t down, across;  // tiles
  bool short_blocks;           // at most 256 codes: sums within ±2^22
};

// float(sum) for |sum| ≤ 2^22 without a conversion: sums start at the bits of 1.5 · 2^23, whose
// mantissa then counts units.
constexpr float kOffset = 12582912.0f;
constexpr std::int32_t kOffsetBits = 0x4b400000;

// Tiles in groups of 8 rows of tiles, so that those in flight share operands in the L2.
template <class Tile>
__device__ void locate(const Problem& p, std::uint32_t& row, std::uint32_t& col) {
  constexpr std::uint32_t kGroup = 8;
  const std::uint32_t group = blockIdx.x / (kGroup * p.across), first = group * kGroup;
  const std::uint32_t height = min(kGroup, p.down - first);
  const std::uint32_t within = blockIdx.x % (kGroup * p.across);
  row = (first + within % height) * Tile::kRows;
  col = within / height * Tile::kCols;
}

// Brings stages of both operands, and the scales that apply within them.
template <class Tile, int kSchedule>
struct Loader {
  static constexpr int kRowsAtOnce = Tile::kThreads / kChunks;
  static constexpr int kSlots = scale_slots(kSchedule);

  const Problem& p;
  std::uint32_t codes, scales;  // shared memory
  std::uint32_t row0, col0;
  const std::int8_t *from_a, *from_b;  // this thread's chunk of the first rows
  const float* from_scales;
  std::uint32_t scale_columns;

  __device__ Loader(const Problem& problem, std::uint32_t shared, std::uint32_t row,
                    std::uint32_t col)
      : p(problem),
        codes(shared),
        scales(shared + kStages * Tile::kOperands * kStep),
        row0(row),
        col0(col) {
    const std::uint32_t r = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
    from_a = p.a + static_cast<std::int64_t>(row0 + r) * p.k + chunk * 16;
    from_b = p.b + static_cast<std::int64_t>(col0 + r) * p.k + chunk * 16;
    const bool of_a = threadIdx.x < Tile::kRows;
    const Scales& s = of_a ? p.scales_a : p.scales_b;
    const std::uint32_t operand_row =
        of_a ? min(row0 + threadIdx.x, p.m - 1) : min(col0 + threadIdx.x - Tile::kRows, p.n - 1);
    from_scales = s.scales + s.index(operand_row, 0);
    scale_columns = s.columns;
  }

  template <int kRows>
  __device__ void bring(std::uint32_t to, const std::int8_t* from, const std::int8_t* any,
                        std::uint32_t rows, std::uint32_t k0) const {
    const std::uint32_t r = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
    const bool inside = k0 + chunk * 16 < p.k;
    to += r * kStep + (chunk ^ (r % 8)) * 16;
#pragma unroll
    for (std::uint32_t i = 0; i < kRows / kRowsAtOnce; ++i) {
      const std::uint32_t down = i * kRowsAtOnce;  // a multiple of 8: the chunk's place stays
      const bool valid = inside && r + down < rows;
      int8::copy16(to + down * kStep,
                   valid ? from + k0 + static_cast<std::int64_t>(down) * p.k : any, valid);
    }
  }

  __device__ void stage(std::uint32_t step) const {
    const std::uint32_t slot = step % kStages;
    const std::uint32_t to = codes + slot * (Tile::kOperands * kStep);
    bring<Tile::kRows>(to, from_a, p.a, p.m - row0, step * kStep);
    bring<Tile::kCols>(to + Tile::kRows * kStep, from_b, p.b, p.n - col0, step * kStep);
    const std::uint32_t first = kSchedule == kWhole        ? 0
                                : kSchedule == kEverySteps ? step / p.block_steps
                                                           : step * kSlots;
#pragma unroll
    for (std::uint32_t i = 0; i < kSlots; ++i) {
      const std::uint32_t block = scale_columns == 1 ? 0 : min(first + i, p.blocks - 1);
      int8::copy4(scales + ((slot * kSlots + i) * Tile::kOperands + threadIdx.x) * 4,
                  from_scales + block);
    }
  }
};

// A warp's part of a tile.
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
      int8::load_matrices(a[to][i],
                          stage + address_a + static_cast<std::uint32_t>(i) * 16 * kStep +
                              ((2u * static_cast<std::uint32_t>(depth) + chunk_a) ^ flip) * 16);
#pragma unroll
    for (int j = 0; j < kAcross / 2; ++j)
      int8::load_matrices(b[to][j],
                          stage + address_b + static_cast<std::uint32_t>(j) * 16 * kStep +
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

  __device__ void write(float* staged) const {
    const std::uint32_t lane = threadIdx.x % 32;
    float* const to = staged + (row + lane / 4) * Tile::kPitch + col + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < kDown; ++i)
#pragma unroll
      for (int j = 0; j < kAcross; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          store_vector(to + (i * 16 + half * 8) * Tile::kPitch + j * 8,
                       Vector<float, 2>{{results[i][j][half * 2], results[i][j][half * 2 + 1]}});
  }
};

template <class Tile, int kSchedule, bool kSharedB, class T>
__global__ void __launch_bounds__(Tile::kThreads) tiles_kernel(Problem p, Output<T> out) {
  extern __shared__ __align__(128) std::uint8_t shared[];
  std::uint32_t row0, col0;
  locate<Tile>(p, row0, col0);
  const std::uint32_t base = int8::shared_address(shared);
  const Loader<Tile, kSchedule> loader(p, base, row0, col0);
  const auto* const scales =
      reinterpret_cast<const float*>(shared + kStages * Tile::kOperands * kStep);
  constexpr int kSlots = scale_slots(kSchedule), kDepths = kStep / kDepth;

  WarpTile<Tile, kSchedule, kSharedB> warp;
  // Blocks of 32 and 64 codes are always short.
  const bool offset = kSchedule == kEvery32 || kSchedule == kEvery64 || p.short_blocks;
  const std::int32_t start = offset ? kOffsetBits : 0;
  warp.clear(start);
  const std::uint32_t steps = (p.k + kStep - 1) / kStep;
#pragma unroll
  for (std::uint32_t s = 0; s < kStages - 1; ++s) {
    if (s < steps) loader.stage(s);
    int8::commit_copies();
  }
  std::uint32_t steps_left = p.block_steps;  // of the current block
  for (std::uint32_t step = 0; step < steps; ++step) {
    int8::wait_copies<kStages - 2>();
    __syncthreads();  // the stage is there for all, and the one to refill has been read by all
    if (step + kStages - 1 < steps) loader.stage(step + kStages - 1);
    int8::commit_copies();
    const std::uint32_t slot = step % kStages;
    const std::uint32_t stage = base + slot * (Tile::kOperands * kStep);
    const float* const stage_scales = scales + slot * kSlots * Tile::kOperands;
    warp.load(stage, 0);
#pragma unroll
    for (int d = 0; d < kDepths; ++d) {
      if (d + 1 < kDepths) warp.load(stage, d + 1);
      warp.multiply(d);
      if constexpr (kSchedule == kEvery32 || kSchedule == kEvery64) {
        if ((d + 1) % kSchedule != 0) continue;
        const int index = d / kSchedule;
        if (step * kSlots + static_cast<std::uint32_t>(index) >= p.blocks) continue;  // past k
        warp.apply(stage_scales + index * Tile::kOperands, true);
        warp.clear(start);
      }
    }
    if constexpr (kSchedule == kEverySteps) {
      if (--steps_left == 0 || step + 1 == steps) {
        warp.apply(stage_scales, offset);
        warp.clear(start);
        steps_left = p.block_steps;
      }
    } else if constexpr (kSchedule == kWhole) {
      if (step + 1 == steps) warp.apply(stage_scales, offset);
    }
  }
  int8::wait_copies<0>();
  __syncthreads();  // results take the place of the stages
  auto* const staged = reinterpret_cast<float*>(shared);
  warp.write(staged);
  __syncthreads();
  constexpr std::uint32_t kFours = Tile::kCols / 4;
#pragma unroll 4
  for (std::uint32_t i = threadIdx.x; i < Tile::kRows * kFours; i += Tile::kThreads) {
    const std::uint32_t r = i / kFours, c = i % kFours * 4;
    const auto f = load_vector<float, 4>(staged + r * Tile::kPitch + c);
    out.store4(f.v, row0 + r, col0 + c);
  }
}

template <class Tile, int kSchedule, bool kSharedB, class T>
void run(Problem p, const IntProduct& product) {
  const auto kernel = tiles_kernel<Tile, kSchedule, kSharedB, T>;
  constexpr std::size_t kShared = shared_bytes<Tile, kSchedule>();
  NIBBLE_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(kShared)));
  p.down = static_cast<std::uint32_t>(ceil_div(p.m, Tile::kRows));
  p.across = static_cast<std::uint32_t>(ceil_div(p.n, Tile::kCols));
  launch(kernel, dim3(p.down * p.across), dim3(Tile::kThreads), kShared, p, output_of<T>(product));
}

template <class Tile, class T>
void run(const Problem& p, const IntProduct& product) {
  // One scale for all columns of each tile saves a product a result.
  const std::int64_t b_rows = product.b.tile_rows;
  const bool shared_b = b_rows % Tile::kCols == 0 || b_rows >= product.n();
  if (p.blocks == 1)
    run<Tile, kWhole, false, T>(p, product);
  else if (product.block == 32)
    run<Tile, kEvery32, false, T>(p, product);
  else if (product.block == 64)
    run<Tile, kEvery64, false, T>(p, product);
  else if (shared_b)
    run<Tile, kEverySteps, true, T>(p, product);
  else
    run<Tile, kEverySteps, false, T>(p, product);
}

// Large tiles move half the bytes; small ones fill the device when c is small. Rounds of the device
// in units of a small tile's work, which takes about 1.5 times as long a result.
bool use_large(std::int64_t m, std::int64_t n) {
  const std::int64_t large = ceil_div(m, Large::kRows) * ceil_div(n, Large::kCols);
  const std::int64_t small = ceil_div(m, Small::kRows) * ceil_div(n, Small::kCols);
  const std::int64_t width = multiprocessors();
  return ceil_div(large, width) * 8 <= ceil_div(small, width) * 3;
}

}  // namespace

void int_gemm_tiles(const IntProduct& product) {
  const Tensor a = padded_codes(product.a, product.k), b = padded_codes(product.b, product.k);
  Problem p{};
  p.a = a.data<std::int8_t>();
  p.b = b.data<std::int8_t>();
  p.scales_a = scales_of(product.a);
  p.scales_b = scales_of(product.b);
  p.m = static_cast<std::uint32_t>(product.m());
  p.n = static_cast<std::uint32_t>(product.n());
  p.k = static_cast<std::uint32_t>(a.size(1));
  p.blocks = static_cast<std::uint32_t>(product.blocks());
  p.block_steps = static_cast<std::uint32_t>(ceil_div(product.block, kStep));
  p.short_blocks = std::min(product.block, product.k) <= 256;
  const bool large = use_large(product.m(), product.n());
  NIBBLE_CUDA_FLOAT_SWITCH(product.c.dtype(), "int_gemm", T,
                           large ? run<Large, T>(p, product) : run<Small, T>(p, product));
}

}  // namespace nibble::cuda
