// Tensor-core building blocks of the bf16 attention kernels. A warp owns 16·kRowTiles rows; its
// products run on mma.sync.m16n8k16 (PTX ISA, "Matrix fragments for mma.m16n8k16"). With
// g = lane / 4 and t = lane % 4, an accumulator holds rows g (elements 0, 1) and g + 8 (2, 3) of
// columns 2t and 2t + 1.
//
// Tiles lie in shared memory in rows of kWidth bf16, their 16-byte chunks permuted by chunk ^ row %
// 8 so that the eight rows of an ldmatrix hit distinct banks.
#pragma once

#include "tensor/cuda/attention_tile.cuh"
#include "tensor/cuda/matrix_loads.cuh"

namespace nibble::cuda {

__device__ inline void load_matrices_transposed(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ inline void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                    std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline std::uint32_t pack_bf16(float low, float high) {
  std::uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
// 2^x; within 2 ulp, results below 2^-126 are 0.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Accumulators of a warp's 16·kRowTiles rows by kColumns columns.
template <int kRowTiles, int kColumns>
struct Accumulators {
  static constexpr int kTiles = kColumns / 8;
  float v[kRowTiles][kTiles][4];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) v[i][n][e] = 0;
  }
  // f(value, row within the warp's rows, column), each known at compile time but for the lane.
  template <class F>
  __device__ void each(F f) {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          f(v[i][n][e], 16 * i + 8 * (e / 2) + lane / 4, 8 * n + 2 * (lane % 4) + e % 2);
  }
};

// Lane addresses. Where a 16x16 block of a tile begins follows from them by at().
// As the left operand, or as the right one with the tile's rows summed over (transposed load):
template <int kWidth>
__device__ std::uint32_t lane_in_rows(std::uint32_t tile) {
  const unsigned lane = threadIdx.x % kWarp;
  return tile + (lane % 16) * kWidth * 2 + (((lane / 16) ^ (lane % 8)) << 4);
}
// As the right operand with the tile's columns summed over:
template <int kWidth>
__device__ std::uint32_t lane_in_columns(std::uint32_t tile) {
  const unsigned lane = threadIdx.x % kWarp;
  return tile + (lane % 8 + lane / 16 * 8) * kWidth * 2 + (((lane / 8 % 2) ^ (lane % 8)) << 4);
}
template <int kWidth>
__device__ std::uint32_t at(std::uint32_t lane_address, int row16, int column16) {
  return (lane_address ^ static_cast<std::uint32_t>(column16 * 32)) +
         static_cast<std::uint32_t>(row16 * 16 * kWidth * 2);
}

// The warp's rows of a tile as left operand, read from the tile at each use.
template <int kRowTiles, int kWidth>
class LeftRows {
 public:
  // `tile`: shared address of the warp's first row. Flips signs where `flip` is 0x80008000.
  __device__ explicit LeftRows(std::uint32_t tile, std::uint32_t flip = 0)
      : address_(lane_in_rows<kWidth>(tile)), flip_(flip) {}
  __device__ void get(std::uint32_t (&a)[kRowTiles][4], int k) const {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      load_matrices(a[i], at<kWidth>(address_, i, k));
#pragma unroll
      for (int e = 0; e < 4; ++e) a[i][e] ^= flip_;
    }
  }

 private:
  std::uint32_t address_, flip_;
};

// c = left · tileᵀ; `right` is lane_in_columns of a tile of kColumns rows.
template <int kRowTiles, int kColumns, int kWidth>
__device__ void score(Accumulators<kRowTiles, kColumns>& c, const LeftRows<kRowTiles, kWidth>& left,
                      std::uint32_t right) {
  c.clear();
#pragma unroll
  for (int k = 0; k < kWidth / 16; ++k) {
    std::uint32_t a[kRowTiles][4];
    left.get(a, k);
#pragma unroll
    for (int n = 0; n < kColumns / 16; ++n) {
      std::uint32_t b[4];
      load_matrices(b, at<kWidth>(right, n, k));
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        multiply_add(c.v[i][2 * n], a[i], b[0], b[1]);
        multiply_add(c.v[i][2 * n + 1], a[i], b[2], b[3]);
      }
    }
  }
}

// c += weights · tile, the weights rounded to bf16; `right` is lane_in_rows of a tile of kSummed
// rows, of which the first kColumns columns count. Two accumulators side by side are, once packed,
// a left operand as they stand.
template <int kRowTiles, int kColumns, int kWidth, int kSummed>
__device__ void accumulate(Accumulators<kRowTiles, kColumns>& c,
                           const Accumulators<kRowTiles, kSummed>& weights, std::uint32_t right) {
#pragma unroll
  for (int k = 0; k < kSummed / 16; ++k) {
    std::uint32_t a[kRowTiles][4];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      const float(&w0)[4] = weights.v[i][2 * k], (&w1)[4] = weights.v[i][2 * k + 1];
      a[i][0] = pack_bf16(w0[0], w0[1]);
      a[i][1] = pack_bf16(w0[2], w0[3]);
      a[i][2] = pack_bf16(w1[0], w1[1]);
      a[i][3] = pack_bf16(w1[2], w1[3]);
    }
#pragma unroll
    for (int n = 0; n < kColumns / 16; ++n) {
      std::uint32_t b[4];
      load_matrices_transposed(b, at<kWidth>(right, k, n));
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        multiply_add(c.v[i][2 * n], a[i], b[0], b[1]);
        multiply_add(c.v[i][2 * n + 1], a[i], b[2], b[3]);
      }
    }
  }
}

// Starts copying kRows rows of `width` elements into a tile; rows from `rows` on and columns from
// `width` on become zeros. `from` and the stride are multiples of 16 bytes.
template <int kRows, int kWidth, int kThreads>
__device__ void copy_tile(std::uint32_t tile, const bfloat16* from, std::int64_t row_stride,
                          int rows, int width) {
  constexpr int kChunks = kWidth / 8;
  static_assert(kRows * kChunks % kThreads == 0);
#pragma unroll
  for (int i = 0; i < kRows * kChunks / kThreads; ++i) {
    const int item = i * kThreads + static_cast<int>(threadIdx.x);
    const int row = item / kChunks, chunk = item % kChunks;
    const int elements = row < rows ? ::min(8, ::max(0, width - 8 * chunk)) : 0;
    const bfloat16* source = elements > 0 ? from + row * row_stride + 8 * chunk : from;
    copy_async(tile + static_cast<std::uint32_t>(row * kWidth * 2 + ((chunk ^ (row & 7)) << 4)),
               source, 2 * elements);
  }
}

// Writes the warp's rows, rounded to bf16, through `staging`: shared memory of
// 16·kRowTiles·kColumns elements that no other warp touches. `factor(row)` multiplies. `to` is
// element (0, 0).
template <int kRowTiles, int kColumns, class Factor>
__device__ void store_rows(Accumulators<kRowTiles, kColumns>& c, Factor factor, char* staging,
                           bfloat16* to, std::int64_t row_stride, int rows, int columns,
                           bool aligned) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  __syncwarp();  // what lay there has been read
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = 16 * i + 8 * half + lane / 4;
      const float f = factor(i, half);
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n)
        *reinterpret_cast<std::uint32_t*>(staging + row * kColumns * 2 + ((n ^ (row & 7)) << 4) +
                                          lane % 4 * 4) =
            pack_bf16(c.v[i][n][2 * half] * f, c.v[i][n][2 * half + 1] * f);
    }
  __syncwarp();
  // As words: elements of a Vector would be stored one by one.
  constexpr int kChunks = kColumns / 8;
  constexpr int kItems = 16 * kRowTiles * kChunks / static_cast<int>(kWarp);
  const auto item = [&](int i, auto store) {
    const int row = (i * static_cast<int>(kWarp) + lane) / kChunks;
    const int chunk = (i * static_cast<int>(kWarp) + lane) % kChunks;
    if (row < rows)
      store(*reinterpret_cast<const uint4*>(staging + row * kColumns * 2 +
                                            ((chunk ^ (row & 7)) << 4)),
            to + row * row_stride + 8 * chunk, columns - 8 * chunk);
  };
  if (aligned && columns >= kColumns) {
#pragma unroll
    for (int i = 0; i < kItems; ++i)
      item(i, [](uint4 x, bfloat16* target, int) { *reinterpret_cast<uint4*>(target) = x; });
  } else {
#pragma unroll 1
    for (int i = 0; i < kItems; ++i)
      item(i, [&](uint4 x, bfloat16* target, int elements) {
        const std::uint32_t words[] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int e = 0; e < 8; ++e)
          if (e < elements)
            reinterpret_cast<std::uint16_t*>(target)[e] =
                static_cast<std::uint16_t>(words[e / 2] >> (16 * (e % 2)));
      });
  }
}

}  // namespace nibble::cuda
