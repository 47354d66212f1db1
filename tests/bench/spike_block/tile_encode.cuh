// tile_encode: one block a 128 × 128 tile, 256 threads, each 8 rows × 8 columns. Producers that
// need row sums run as clusters spanning the whole row and share the sums through distributed
// memory.
#pragma once

#include "encode.cuh"

namespace nibble::spike {

/// Row statistics over the cluster's column tiles; leaves the totals of this block's rows in
/// `total`.
template <class P>
__device__ void cluster_row_sums(const P& p, const typename P::Raw (&raw)[8],
                                 const typename P::Columns& columns, float2 (&mine)[kTile],
                                 float2 (&total)[kTile]) {
  const int lane16 = threadIdx.x % 16, group = threadIdx.x / 16;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    float2 s = p.sums(raw[i], columns);
    for (int d = 8; d > 0; d /= 2) {
      s.x += __shfl_xor_sync(~0u, s.x, d);
      s.y += __shfl_xor_sync(~0u, s.y, d);
    }
    if (lane16 == 0) mine[8 * group + i] = s;
  }
  auto cluster = cooperative_groups::this_cluster();
  cluster.sync();
  if (threadIdx.x < kTile) {
    float2 sum{0, 0};
    for (unsigned b = 0; b < cluster.num_blocks(); ++b) {
      const float2 part = cluster.map_shared_rank(&mine[0], b)[threadIdx.x];
      sum.x += part.x;
      sum.y += part.y;
    }
    total[threadIdx.x] = sum;
  }
  cluster.sync();  // also keeps every block alive until its sums were read
}

template <class P, Scales kScales>
__global__ __launch_bounds__(256, P::kRowSums ? 1 : 2) void tile_encode(P p, int rows, int cols,
                                                                        TileOutputs out,
                                                                        NoiseKey key) {
  constexpr bool kGiven = kScales == Scales::kRowCol;  // the producer ran before: encode only
  constexpr int kTerms = kGiven ? 0 : P::kColTerms;
  const int cg = threadIdx.x % 16, rg = threadIdx.x / 16, warp = threadIdx.x / 32;
  const int col = int(blockIdx.x) * kTile + 8 * cg, row0 = int(blockIdx.y) * kTile + 8 * rg;
  const bool active = col < cols && row0 < rows;  // rows and cols are multiples of 8
  __shared__ alignas(16) uint2 transposed[kTile * 16];
  __shared__ float inverse_row[kTile], inverse_col[kTile];
  __shared__ std::uint32_t row_bits[kTile], col_bits[8][kTile / 2];

  typename P::Columns columns{};
  typename P::Raw raw[8] = {};
  if (active) {
    columns = p.columns(col);
#pragma unroll
    for (int i = 0; i < 8; ++i) raw[i] = p.load(row0 + i, col, cols);
  }
  typename P::Row params[8];
  if constexpr (P::kRowSums) {
    __shared__ float2 mine[kTile], total[kTile];
    cluster_row_sums(p, raw, columns, mine, total);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      params[i] = p.row(total[8 * rg + i], cols);
      if (cg == 0 && blockIdx.x == 0 && active) p.store_row(row0 + i, params[i]);
    }
  }

  uint4 v[8];
  float sums[kTerms > 0 ? kTerms : 1][8] = {};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    v[i] = {0, 0, 0, 0};
    if (!active) continue;
    float x[8];
    p.value(raw[i], p.late(row0 + i, col, cols), params[i], columns, x);
    v[i] = pack8(x);
    if constexpr (kTerms > 0) {
      unpack8(v[i], x);
      p.col_terms(raw[i], params[i], columns, x, sums);
    }
  }

  // Absmax of rows and columns (or of the tile), then one inverse and one scale each.
  const int row_tiles = gridDim.y, col_tiles = gridDim.x;
  if constexpr (kScales != Scales::kRowCol) {
    uint4 col_max{0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint4 a{abs2(v[i].x), abs2(v[i].y), abs2(v[i].z), abs2(v[i].w)};
      col_max = {max2(col_max.x, a.x), max2(col_max.y, a.y), max2(col_max.z, a.z),
                 max2(col_max.w, a.w)};
      if constexpr (kScales == Scales::kGroup) {
        std::uint32_t m = max2(max2(a.x, a.y), max2(a.z, a.w));
        for (int d = 8; d > 0; d /= 2) m = max2(m, __shfl_xor_sync(~0u, m, d));
        if (cg == 0) row_bits[8 * rg + i] = max(high_as_float(m), low_as_float(m));
      }
    }
    std::uint32_t w[4] = {col_max.x, col_max.y, col_max.z, col_max.w};
    if constexpr (kScales == Scales::kGroup) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        w[j] = max2(w[j], __shfl_xor_sync(~0u, w[j], 16));
        if (rg % 2 == 0) col_bits[warp][4 * cg + j] = w[j];
      }
    } else {
      const std::uint32_t m = max2(max2(w[0], w[1]), max2(w[2], w[3]));
      const std::uint32_t bits = __reduce_max_sync(~0u, max(high_as_float(m), low_as_float(m)));
      if (threadIdx.x % 32 == 0) row_bits[warp] = bits;
    }
    __syncthreads();
  }
  const int k = threadIdx.x % kTile;
  const bool is_row = threadIdx.x < kTile;
  const int index = int(is_row ? blockIdx.y : blockIdx.x) * kTile + k;
  const bool in_range = index < (is_row ? rows : cols);
  std::uint32_t bits = 0;
  if constexpr (kScales == Scales::kRowCol) {
    if (in_range) bits = is_row ? out.row_absmax[index] : out.col_absmax[index];
  } else if constexpr (kScales == Scales::kGroup) {
    if (is_row) {
      bits = row_bits[k];
    } else {
      std::uint32_t m = 0;
      for (int i = 0; i < 8; ++i) m = max2(m, col_bits[i][k / 2]);
      bits = k % 2 == 0 ? low_as_float(m) : high_as_float(m);
    }
  } else {
    for (int i = 0; i < 8; ++i) bits = max(bits, row_bits[i]);
  }
  const float absmax = __uint_as_float(bits), scale = absmax / 127.0f;
  (is_row ? inverse_row : inverse_col)[k] = inverse_scale(absmax);
  if constexpr (kScales == Scales::kTile) {
    if (threadIdx.x == 0) out.scales[blockIdx.y * col_tiles + blockIdx.x] = scale;
  } else if (in_range) {
    if constexpr (kScales == Scales::kGroup) {
      if (is_row)
        out.scales[std::size_t(index) * col_tiles + blockIdx.x] = scale;
      else
        out.scales_t[std::size_t(index) * row_tiles + blockIdx.y] = scale;
    } else if ((is_row ? blockIdx.x : blockIdx.y) == 0) {
      (is_row ? out.scales : out.scales_t)[index] = scale;
    }
  }
  __syncthreads();

  // Codes: one noise draw an element serves both orientations.
  std::uint32_t words[2][8];  // [half][row], four codes a word, for the transposed copy
  float inverse_c[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) inverse_c[j] = inverse_col[8 * cg + j];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    float x[8], noise[8] = {};
    unpack8(v[i], x);
    if constexpr (P::kGradient) {
      const std::uint64_t element = std::uint64_t(row0 + i) * cols + col;
      const Bits4 d = draws(element / 8, key);
      const std::uint32_t n[4] = {d.x, d.y, d.z, d.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        noise[2 * j] = centered(n[j] & 0xffffu);
        noise[2 * j + 1] = centered(n[j] >> 16);
      }
    }
    std::uint32_t r[8];
    const float inverse_r = inverse_row[8 * rg + i];
#pragma unroll
    for (int j = 0; j < 8; ++j) r[j] = encode_byte(x[j], inverse_r, noise[j]);
    const uint2 codes{join4(r[0], r[1], r[2], r[3]), join4(r[4], r[5], r[6], r[7])};
    if (active) *reinterpret_cast<uint2*>(out.codes + std::size_t(row0 + i) * cols + col) = codes;
    if constexpr (kScales == Scales::kTile) {  // one scale: the transposed codes are the same
      words[0][i] = codes.x;
      words[1][i] = codes.y;
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j) r[j] = encode_byte(x[j], inverse_c[j], noise[j]);
      words[0][i] = join4(r[0], r[1], r[2], r[3]);
      words[1][i] = join4(r[4], r[5], r[6], r[7]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    std::uint32_t top[4], bottom[4];
    transpose4({words[half][0], words[half][1], words[half][2], words[half][3]}, top);
    transpose4({words[half][4], words[half][5], words[half][6], words[half][7]}, bottom);
#pragma unroll
    for (int j = 0; j < 4; ++j)  // the xor spreads a half-warp's 16 columns over all banks
      transposed[(8 * cg + 4 * half + j) * 16 + (rg ^ cg)] = {top[j], bottom[j]};
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int c = i * 32 + threadIdx.x / 8, pair = threadIdx.x % 8, swizzle = c / 8;
    const uint4 both =
        *reinterpret_cast<const uint4*>(&transposed[c * 16 + 2 * (pair ^ (swizzle / 2))]);
    const uint4 ordered = swizzle % 2 == 0 ? both : uint4{both.z, both.w, both.x, both.y};
    const int out_col = int(blockIdx.x) * kTile + c, out_row = int(blockIdx.y) * kTile + 16 * pair;
    if (out_col < cols && out_row < rows)
      *reinterpret_cast<uint4*>(out.codes_t + std::size_t(out_col) * rows + out_row) = ordered;
  }

  if constexpr (kTerms > 0) {
    float* scratch = reinterpret_cast<float*>(transposed);  // [8 warps][128]
#pragma unroll
    for (int t = 0; t < kTerms; ++t) {
      __syncthreads();
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float s = sums[t][j] + __shfl_xor_sync(~0u, sums[t][j], 16);
        if (rg % 2 == 0) scratch[warp * kTile + 8 * cg + j] = s;
      }
      __syncthreads();
      const int c = int(blockIdx.x) * kTile + int(threadIdx.x);
      if (threadIdx.x < kTile && c < cols) {
        float total = 0;
        for (int w = 0; w < 8; ++w) total += scratch[w * kTile + threadIdx.x];
        out.col_partials[(std::size_t(t) * gridDim.y + blockIdx.y) * cols + c] = total;
      }
    }
  }
}

}  // namespace nibble::spike
