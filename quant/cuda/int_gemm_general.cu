// Products of any codes: U8, int4, blocks of any length, zero points, contractions beyond int32.
// Tiles of 64 × 64 results, codes widened to bytes in shared memory, four of them multiplied at
// once with dp4a: at most 1/16 of the tensor cores' rate. Sums are exact: int32 within 32768 codes,
// then int64.
#include "quant/cuda/product.cuh"
#include "quant/segments.h"

namespace nibble::cuda {
namespace {

constexpr std::uint32_t kTile = 64, kSide = 16, kThreads = kSide * kSide;
constexpr int kPer = kTile / kSide;
constexpr std::uint32_t kWords = 16, kCodes = kWords * 4;  // of a row in shared memory
constexpr std::uint32_t kFlush = 32768 / kCodes;           // 255² · 32768 < 2³¹
constexpr std::uint32_t kOnes = 0x01010101;

// sum + Σ of four products; U8 codes are bytes without sign, all others fit signed ones.
template <bool kSignedA, bool kSignedB>
__device__ std::int32_t dot(std::uint32_t a, std::uint32_t b, std::int32_t sum) {
  std::int32_t y;
  if constexpr (kSignedA && kSignedB)
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(sum));
  else if constexpr (kSignedA)
    asm("dp4a.s32.u32 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(sum));
  else if constexpr (kSignedB)
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(sum));
  else
    asm("dp4a.u32.u32 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(sum));
  return y;
}

struct Operand {
  Codes codes;
  Scales scales;
  std::uint32_t rows;
  bool words;  // rows and blocks start at multiples of four bytes
};
struct Problem {
  Operand a, b;
  std::uint32_t k, block, blocks;
  Segments segments;
};

// slab[r][w]: codes [k0 + 4w, k0 + 4w + 4) of row row0 + r as bytes; 0 outside [k0, end) and rows.
__device__ void load_slab(std::uint32_t (&slab)[kTile][kWords + 1], const Operand& x,
                          std::uint32_t row0, std::uint32_t k0, std::uint32_t end) {
#pragma unroll
  for (std::uint32_t i = 0; i < kTile * kWords / kThreads; ++i) {
    const std::uint32_t at = threadIdx.x + i * kThreads, r = at / kWords, w = at % kWords;
    const std::uint32_t row = row0 + r, k = k0 + 4 * w;
    std::uint32_t word = 0;
    if (row < x.rows && k < end) {
      if (x.words && k + 4 <= end) {
        word = __ldg(
            reinterpret_cast<const std::uint32_t*>(x.codes.bytes + row * x.codes.row_bytes + k));
      } else {
        for (std::uint32_t j = 0; j < 4 && k + j < end; ++j)
          word |= (static_cast<std::uint32_t>(x.codes.at(row, k + j)) & 255u) << (8 * j);
      }
    }
    slab[r][w] = word;
  }
}

// Exact sums of one contraction block: of products, and of each row's codes.
struct Sums {
  std::int64_t products[kPer][kPer], rows_a[kPer], rows_b[kPer];
};

template <bool kSignedA, bool kSignedB, bool kZeros>
__device__ void sum_block(Sums& sums, const Problem& p, std::uint32_t row0, std::uint32_t col0,
                          std::uint32_t begin, std::uint32_t end) {
  __shared__ std::uint32_t slab_a[kTile][kWords + 1], slab_b[kTile][kWords + 1];
  const std::uint32_t tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  std::int32_t part[kPer][kPer] = {}, part_a[kPer] = {}, part_b[kPer] = {};
  const auto flush = [&] {
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
#pragma unroll
      for (int j = 0; j < kPer; ++j) {
        sums.products[i][j] += part[i][j];
        part[i][j] = 0;
      }
      sums.rows_a[i] += part_a[i];
      sums.rows_b[i] += part_b[i];
      part_a[i] = part_b[i] = 0;
    }
  };
  std::uint32_t slabs = 0;
  for (std::uint32_t k0 = begin; k0 < end; k0 += kCodes) {
    load_slab(slab_a, p.a, row0, k0, end);
    load_slab(slab_b, p.b, col0, k0, end);
    __syncthreads();
    const std::uint32_t words = min(kWords, (end - k0 + 3) / 4);
#pragma unroll 4
    for (std::uint32_t w = 0; w < words; ++w) {
      std::uint32_t x[kPer], y[kPer];
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        x[i] = slab_a[ty + i * kSide][w];
        y[i] = slab_b[tx + i * kSide][w];
        if constexpr (kZeros) {
          part_a[i] = dot<kSignedA, true>(x[i], kOnes, part_a[i]);
          part_b[i] = dot<kSignedB, true>(y[i], kOnes, part_b[i]);
        }
      }
#pragma unroll
      for (int i = 0; i < kPer; ++i)
#pragma unroll
        for (int j = 0; j < kPer; ++j) part[i][j] = dot<kSignedA, kSignedB>(x[i], y[j], part[i][j]);
    }
    __syncthreads();
    if (++slabs % kFlush == 0) flush();
  }
  flush();
}

__device__ inline double zero_at(const Scales& s, std::int64_t index) {
  return s.zeros ? static_cast<double>(__ldg(s.zeros + index)) : 0.0;
}

template <bool kSignedA, bool kSignedB, bool kZeros>
__global__ void __launch_bounds__(kThreads, 1) general_kernel(Problem p, BiasedOutput out) {
  const std::uint32_t across = (out.n + kTile - 1) / kTile;
  const std::uint32_t row0 = blockIdx.x / across * kTile, col0 = blockIdx.x % across * kTile;
  const std::uint32_t tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  float f[kPer][kPer] = {}, earlier[kPer][kPer] = {};  // earlier: segments that are complete
  static_assert(Segments::kRows % kTile == 0 && Segments::kCols % kTile == 0);
  const std::uint32_t tile = p.segments.tile_of(row0, col0), first = p.segments.end(tile, 0);
  std::uint32_t stop = first;  // of the segment
  for (std::uint32_t block = 0; block < p.blocks; ++block) {
    const std::uint32_t begin = block * p.block, end = min(p.k - begin, p.block) + begin;
    Sums sums{};
    const bool fresh = block == stop;
    if (fresh) stop = p.segments.end(tile, block);
    sum_block<kSignedA, kSignedB, kZeros>(sums, p, row0, col0, begin, end);
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      const std::uint32_t row = min(row0 + ty + i * kSide, out.m - 1);
      const std::int64_t index_a = p.a.scales.index(row, block);
      const float sa = __ldg(p.a.scales.scales + index_a);
#pragma unroll
      for (int j = 0; j < kPer; ++j) {
        const std::uint32_t col = min(col0 + tx + j * kSide, out.n - 1);
        const std::int64_t index_b = p.b.scales.index(col, block);
        const float sb = __ldg(p.b.scales.scales + index_b);
        const float sum = kZeros ? with_zeros(sums.products[i][j], zero_at(p.a.scales, index_a),
                                              zero_at(p.b.scales, index_b), sums.rows_a[i],
                                              sums.rows_b[j], static_cast<double>(end - begin))
                                 : __ll2float_rn(sums.products[i][j]);
        if (fresh) {
          earlier[i][j] = __fadd_rn(earlier[i][j], f[i][j]);
          f[i][j] = 0;
        }
        f[i][j] =
            p.blocks == 1 ? scale_whole(sum, sa, sb) : __fmaf_rn(sum, __fmul_rn(sa, sb), f[i][j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kPer; ++i)
#pragma unroll
    for (int j = 0; j < kPer; ++j)
      out.store(p.blocks > first ? __fadd_rn(earlier[i][j], f[i][j]) : f[i][j],
                row0 + ty + i * kSide, col0 + tx + j * kSide);
}

Operand operand_of(const CodeOperand& x, std::int64_t block) {
  const Codes codes = codes_of(x);
  const bool bytes = codes.payload == Payload::I8 || codes.payload == Payload::U8;
  return {codes, scales_of(x), static_cast<std::uint32_t>(x.codes.size(0)),
          bytes && codes.row_bytes % 4 == 0 && block % 4 == 0 && is_aligned(codes.bytes, 4)};
}

template <bool kSignedA, bool kSignedB, bool kZeros>
void run(const Problem& problem, const IntProduct& p) {
  const auto tiles = static_cast<unsigned>(ceil_div(p.m(), kTile) * ceil_div(p.n(), kTile));
  launch(general_kernel<kSignedA, kSignedB, kZeros>, dim3(tiles), dim3(kThreads), 0, problem,
         biased_output_of(p));
}
template <bool kSignedA, bool kSignedB>
void run(const Problem& problem, const IntProduct& p) {
  if (p.a.zeros || p.b.zeros)
    run<kSignedA, kSignedB, true>(problem, p);
  else
    run<kSignedA, kSignedB, false>(problem, p);
}

}  // namespace

void int_gemm_general(const IntProduct& p) {
  const std::int64_t block = std::min(p.block, p.k);
  const Problem problem{operand_of(p.a, block),
                        operand_of(p.b, block),
                        static_cast<std::uint32_t>(p.k),
                        static_cast<std::uint32_t>(block),
                        static_cast<std::uint32_t>(p.blocks()),
                        Segments(p.m(), p.n(), p.k, block)};
  const bool signed_a = problem.a.codes.payload != Payload::U8;
  const bool signed_b = problem.b.codes.payload != Payload::U8;
  if (signed_a && signed_b)
    run<true, true>(problem, p);
  else if (signed_a)
    run<true, false>(problem, p);
  else if (signed_b)
    run<false, true>(problem, p);
  else
    run<false, false>(problem, p);
}

}  // namespace nibble::cuda
