// Both encodings of a matrix in one pass (quant_pair). A cluster takes the 256 or 128 rows of a
// column's run; each of its blocks copies 64 of them (a slice of the columns, when rows are long)
// into shared memory, where producers work in place. Largest magnitudes of rows and columns are
// found there and exchanged within the cluster; then every element is read once more and encoded
// twice, with one draw. A thread encodes 16 rows of 8 columns: 8 neighbouring codes of a row and 16
// of a column leave together, so that nothing is turned in shared memory.
//
// Moves 2 or 4 bytes an element in and 1 + 1 out, producers 2 or 4 more for each other tensor of
// theirs; computes about 15 operations an element, 25 with noise, against some 28 that an H200 can
// do while it moves 4 bytes. Measured: tests/bench/results/2026-11-29-pair.md.
#pragma once

#include "quant/cuda/one_pass.cuh"
#include "quant/kernels.h"
#include "tensor/cuda/column_blocks.cuh"
#include "tensor/cuda/elementwise.cuh"
#include "tensor/cuda/fast_math.cuh"
#include "tensor/cuda/hopper.cuh"
#include "tensor/cuda/rows.cuh"

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
  const T *x, *other;  // other: residual, or dy
  T *value, *sum;      // may be null
  const T *gamma, *beta;
  float *mean, *rstd, epsilon;
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

// ---- largest magnitudes -----------------------------------------------------------------------

// Of the 8 columns and 4 rows that a lane reads at once; bf16 in pairs of 16-bit halves.
template <class T>
struct Largest;
template <>
struct Largest<bfloat16> {
  std::uint32_t column[4] = {};
  // To the row maxima [64] of these four rows, whose lanes are kAcross neighbours.
  __device__ void add(const Vector<bfloat16, 8> (&x)[4], std::uint32_t* rows) {
    std::uint32_t pair[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto raw = *reinterpret_cast<const uint4*>(&x[i]);
      const std::uint32_t m[4] = {raw.x & 0x7fff7fffu, raw.y & 0x7fff7fffu, raw.z & 0x7fff7fffu,
                                  raw.w & 0x7fff7fffu};
#pragma unroll
      for (int k = 0; k < 4; ++k) column[k] = __vmaxu2(column[k], m[k]);
      pair[i] = __vmaxu2(__vmaxu2(m[0], m[1]), __vmaxu2(m[2], m[3]));
    }
    std::uint32_t most[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      most[k] = __vmaxu2(__byte_perm(pair[2 * k], pair[2 * k + 1], 0x5410),
                         __byte_perm(pair[2 * k], pair[2 * k + 1], 0x7632));
#pragma unroll
      for (unsigned lane = 1; lane < kAcross; lane *= 2)
        most[k] = __vmaxu2(most[k], __shfl_xor_sync(kFullMask, most[k], lane));
    }
    const std::uint32_t across = threadIdx.x % kAcross;
    const std::uint32_t two = across & 2 ? most[1] : most[0];
    if (across < 4) atomicMax(rows + across, across & 1 ? two & 0xffff0000u : two << 16);
  }
  // To the column maxima of these columns, in every lane.
  __device__ void finish(std::uint32_t (&all)[8]) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (unsigned lane = kAcross; lane < kWarp; lane *= 2)
        column[k] = __vmaxu2(column[k], __shfl_xor_sync(kFullMask, column[k], lane));
      all[2 * k] = column[k] << 16;
      all[2 * k + 1] = column[k] & 0xffff0000u;
    }
  }
};
template <>
struct Largest<float> {
  std::uint32_t column[8] = {};
  __device__ void add(const Vector<float, 8> (&x)[4], std::uint32_t* rows) {
    const std::uint32_t across = threadIdx.x % kAcross;
#pragma unroll
    for (std::uint32_t i = 0; i < 4; ++i) {
      std::uint32_t most = 0;
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const std::uint32_t m = std::bit_cast<std::uint32_t>(x[i][k]) & 0x7fffffffu;
        column[k] = ::max(column[k], m);
        most = ::max(most, m);
      }
#pragma unroll
      for (unsigned lane = 1; lane < kAcross; lane *= 2)
        most = ::max(most, __shfl_xor_sync(kFullMask, most, lane));
      if (across == i) atomicMax(rows + i, most);
    }
  }
  __device__ void finish(std::uint32_t (&all)[8]) {
#pragma unroll
    for (int k = 0; k < 8; ++k) {
#pragma unroll
      for (unsigned lane = kAcross; lane < kWarp; lane *= 2)
        column[k] = ::max(column[k], __shfl_xor_sync(kFullMask, column[k], lane));
      all[k] = column[k];
    }
  }
};

// ---- producers --------------------------------------------------------------------------------

// fast_math.cuh; the same functors as tensor/cuda/activation.cu's.
struct GeluOf {
  static constexpr float kFastBound = fast::kGeluBound;
  __device__ float operator()(float v) const { return scalar::gelu_tanh(v); }
  __device__ static float fast(float v) { return nibble::cuda::fast::gelu_tanh(v); }
};
struct GeluBackwardOf {
  static constexpr float kFastBound = fast::kGeluBound;
  __device__ float operator()(float d, float v) const { return scalar::gelu_tanh_backward(d, v); }
  __device__ static float fast(float d, float v) {
    return nibble::cuda::fast::gelu_tanh_backward(d, v);
  }
};
struct AddOf {
  __device__ float operator()(float a, float b) const { return a + b; }
};

// Rows of the patch become layer norms of themselves: tensor/cuda/norm.cu's arithmetic in its
// order.
template <class T, class Tile>
__device__ void normalise(const Arguments<T>& a, const Patch<T>& patch, const Place& here) {
  __shared__ float scratch[2][kWarps];
  constexpr std::uint32_t kAtOnce = kWarps / Tile::kWarps;
  const auto cols = static_cast<int>(a.cols);
  const auto width = static_cast<float>(cols);
  for (std::uint32_t first = 0; first < here.rows; first += kAtOnce) {
    const std::uint32_t row = first + threadIdx.x / Tile::kThreads;
    const int n = row < here.rows ? cols : 0;
    T* const own = patch.at(row, 0);
    const Row<T, Tile> in(own, n);
    float mu = 0, squares = 0;
    in.each([&](float v, int) { mu += v; });
    mu = row_sum<Tile>(mu, scratch[0]) / width;
    in.each([&](float v, int column) {
      const float d = column < n ? v - mu : 0.0f;
      squares = fmaf(d, d, squares);
    });
    const float inverse = 1.0f / sqrtf(row_sum<Tile>(squares, scratch[1]) / width + a.epsilon);
    const Row<T, Tile> scale(a.gamma, n);
    const std::int64_t at = here.row0 + row;
    const auto write = [&](T* to) {
      if (a.beta)
        write_row<T, Tile>(
            to, n, [=](float v, float g, float b) { return fmaf((v - mu) * inverse, g, b); }, in,
            scale, Row<T, Tile>(a.beta, n));
      else
        write_row<T, Tile>(
            to, n, [=](float v, float g) { return (v - mu) * inverse * g; }, in, scale);
    };
    write(own);
    if (n > 0 && Tile::thread() == 0) {
      a.mean[at] = mu;
      a.rstd[at] = inverse;
    }
  }
}

// What whole rows need: sums with a residual, norms. Elements of their own are done while their
// magnitudes are taken.
template <Kind kKind, class T>
__device__ void prepare(const Arguments<T>& a, const Patch<T>& patch, const Place& here) {
  constexpr int V = kVector<T>;
  const std::uint32_t vectors = a.cols / V;
  if constexpr (kKind == Kind::AddLayerNorm) {
#pragma unroll 4
    for (std::uint32_t v = threadIdx.x; v < here.rows * vectors; v += kBlock) {
      const std::uint32_t row = v / vectors, col = (v - row * vectors) * V;
      const std::int64_t at = std::int64_t{here.row0 + row} * a.cols + col;
      const auto y = apply_vector<V, T>(AddOf{}, std::make_tuple(load_vector<T>(patch.at(row, col)),
                                                                 load_vector<T>(a.other + at)));
      store_vector(patch.at(row, col), y);
      store_vector(a.sum + at, y);
    }
    __syncthreads();
  }
  static_assert(kPairBytes / kRows <= 128 * 16);
  if (vectors <= 96)  // as with_row_tile chooses
    normalise<T, RowTile<1, 3>>(a, patch, here);
  else
    normalise<T, RowTile<2, 2>>(a, patch, here);
  __syncthreads();
  if (!a.value) return;
#pragma unroll 4
  for (std::uint32_t v = threadIdx.x; v < here.rows * vectors; v += kBlock) {
    const std::uint32_t row = v / vectors, col = (v - row * vectors) * V;
    store_vector(a.value + std::int64_t{here.row0 + row} * a.cols + col,
                 load_vector<T>(patch.at(row, col)));
  }
}

template <class T>
__device__ Vector<T, 8> load_eight(const T* p) {
  T x[8];
  load_row<8>(p, x);
  return *reinterpret_cast<const Vector<T, 8>*>(x);
}
template <class T>
__device__ void store_eight(T* p, const Vector<T, 8>& x) {
  store_row<8>(p, x.v);
}

// Finishes the elements of a warp's tiles, takes their magnitudes, and adds up columns.
template <Kind kKind, class T>
__device__ void survey(const Arguments<T>& a, const Patch<T>& patch, const Place& here) {
  const std::uint32_t lane = threadIdx.x % kWarp, across = lane % kAcross;
  const std::uint32_t row = lane / kAcross * kDepth;
  for (std::uint32_t tile = threadIdx.x / kWarp * kTile; tile < here.cols; tile += kWarps * kTile) {
    const std::uint32_t col = tile + across * 8;
    const bool valid = col < here.cols && row < here.rows;
    const std::int64_t first = std::int64_t{here.row0 + row} * a.cols + here.col0 + col;
    std::uint32_t* const rows = patch.row_most + (tile >> a.log_group) * kRows + row;
    Largest<T> largest;
    float sum[8] = {};
#pragma unroll 1
    for (std::uint32_t i = 0; i < kDepth; i += 4) {
      Vector<T, 8> x[4] = {};
      if (valid) {
#pragma unroll
        for (std::uint32_t k = 0; k < 4; ++k) x[k] = load_eight(patch.at(row + i + k, col));
        if constexpr (kKind == Kind::Gelu || kKind == Kind::GeluBackward) {
          Vector<T, 8> d[4];
          if constexpr (kKind == Kind::GeluBackward)
#pragma unroll
            for (std::uint32_t k = 0; k < 4; ++k)
              d[k] = load_eight(a.other + first + std::int64_t{i + k} * a.cols);
#pragma unroll
          for (std::uint32_t k = 0; k < 4; ++k) {
            if constexpr (kKind == Kind::Gelu)
              x[k] = apply_vector<8, T>(GeluOf{}, std::make_tuple(x[k]));
            else
              x[k] = apply_vector<8, T>(GeluBackwardOf{}, std::make_tuple(d[k], x[k]));
            store_eight(patch.at(row + i + k, col), x[k]);
            if (a.value) store_eight(a.value + first + std::int64_t{i + k} * a.cols, x[k]);
          }
        }
        if (a.sums)
#pragma unroll
          for (int e = 0; e < 8; ++e)
            sum[e] += sum_four(to_float(x[0][e]), to_float(x[1][e]), to_float(x[2][e]),
                               to_float(x[3][e]));
      }
      largest.add(x, rows + i);
    }
    std::uint32_t most[8];
    largest.finish(most);
    if (a.sums)
#pragma unroll
      for (unsigned distance = kAcross; distance < kWarp; distance *= 2)
#pragma unroll
        for (int e = 0; e < 8; ++e) sum[e] += __shfl_xor_sync(kFullMask, sum[e], distance);
    if (lane >= kAcross || col >= here.cols) continue;
    store_row<8>(patch.column_most + col, most);
    if (a.sums && here.rows > 0)
      store_row<8>(a.sums + std::int64_t{here.row0 / kRows} * a.cols + here.col0 + col, sum);
  }
}

// ---- steps ------------------------------------------------------------------------------------

// Steps of the block's rows and columns from what the cluster found; leaves their factors.
template <class T>
__device__ void settle(const Arguments<T>& a, const Patch<T>& patch, const Place& here) {
  const auto maximum = [](uint4 p, uint4 q) {
    return uint4{::max(p.x, q.x), ::max(p.y, q.y), ::max(p.z, q.z), ::max(p.w, q.w)};
  };
  if (a.column_codes)
    for (std::uint32_t c = threadIdx.x * 4; c < here.cols; c += kBlock * 4) {
      const std::uint32_t own = shared_address(patch.column_most + c);
      uint4 most{};
      for (std::uint32_t r = 0; r < a.down; ++r)
        most = maximum(most,
                       hopper::load_remote(hopper::remote_address(own, r * a.slices + here.slice)));
      const std::uint32_t found[4] = {most.x, most.y, most.z, most.w};
#pragma unroll
      for (std::uint32_t k = 0; k < 4; ++k) {
        const float step = a.column_rule.of_largest(found[k]);
        patch.column_factor[c + k] = codec::multiplier_of(step);
        if (here.down == 0)
          a.column_steps[std::int64_t{here.col0 + c + k} * a.runs + here.band] = step;
      }
    }
  const std::uint32_t all = a.groups * kRows;
  for (std::uint32_t i = threadIdx.x * 4; i < all; i += kBlock * 4) {
    const std::uint32_t own = shared_address(patch.row_most + i);
    uint4 most = *reinterpret_cast<const uint4*>(patch.row_most + i);
    const bool whole = a.log_group > 7;  // a row's scale covers the slices
    for (std::uint32_t s = 0; whole && s < a.slices; ++s)
      if (s != here.slice)
        most = maximum(most,
                       hopper::load_remote(hopper::remote_address(own, here.down * a.slices + s)));
    const std::uint32_t found[4] = {most.x, most.y, most.z, most.w};
    const std::uint32_t group = i / kRows, row = i % kRows;
    const std::uint32_t column = whole ? 0 : (here.col0 >> a.log_group) + group;
    const std::uint32_t columns = whole ? 1 : a.cols >> a.log_group;
#pragma unroll
    for (std::uint32_t k = 0; k < 4; ++k) {
      const float step = a.row_rule.of_largest(found[k]);
      patch.row_factor[i + k] = codec::multiplier_of(step);
      if (row + k < here.rows && column < columns && (!whole || here.slice == 0))
        a.row_steps[std::int64_t{here.row0 + row + k} * columns + column] = step;
    }
  }
}

// ---- codes ------------------------------------------------------------------------------------

// The noise of draw j of a block: centred_noise without a conversion, each operation exact.
__device__ inline float noise_of(const Philox& draws, int j) {
  const std::uint32_t bits = __byte_perm(draws.v[j >> 1], 0x4b00u, j & 1 ? 0x5432 : 0x5410);
  return std::fma(codec::sub(std::bit_cast<float>(bits), 8388607.5f), 1.0f / 65536.0f, -0.5f);
}
// A code in the low byte: codec::encode_integer for quotients that are not below the lowest code.
// fminf makes the largest of NaN, as there.
template <bool kStochastic>
__device__ std::uint32_t code_of(float x, float factor, float noise, float high) {
  float y = codec::mul(x, factor);
  if constexpr (kStochastic) y = codec::add(y, noise);
  return std::bit_cast<std::uint32_t>(codec::add(fminf(y, high), codec::kRoundMagic));
}
__device__ inline std::uint32_t low_bytes(const std::uint32_t* c) {
  return __byte_perm(__byte_perm(c[0], c[1], 0x0040), __byte_perm(c[2], c[3], 0x0040), 0x5410);
}

template <bool kStochastic, class T>
__device__ void encode(const Arguments<T>& a, const Patch<T>& patch, const Place& here) {
  const std::uint32_t lane = threadIdx.x % kWarp, across = lane % kAcross;
  const std::uint32_t row = lane / kAcross * kDepth;
  const std::uint32_t step = kStochastic ? a.key.step_value() : 0;
  for (std::uint32_t tile = threadIdx.x / kWarp * kTile; tile < here.cols; tile += kWarps * kTile) {
    const std::uint32_t col = tile + across * 8;
    if (col >= here.cols || row >= here.rows) continue;
    const float* const row_factors = patch.row_factor + (tile >> a.log_group) * kRows + row;
    float factor[8];
    load_row<8>(patch.column_factor + col, factor);
    std::int64_t at = std::int64_t{here.row0 + row} * a.cols + here.col0 + col;
#pragma unroll 1
    for (std::uint32_t i = 0; i < kDepth; i += 4) {
      Vector<T, 8> x[4];
#pragma unroll
      for (std::uint32_t k = 0; k < 4; ++k) x[k] = load_eight(patch.at(row + i + k, col));
      const auto by_row = load_vector<float, 4>(row_factors + i);
      std::uint32_t words[8];
#pragma unroll
      for (int k = 0; k < 4; ++k, at += a.cols) {
        Philox p{};
        if constexpr (kStochastic)
          p = a.keys.block(static_cast<std::uint64_t>(at) >> 3, a.key.site, step);
        std::uint32_t codes[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float v = to_float(x[k][j]), noise = kStochastic ? noise_of(p, j) : 0.0f;
          codes[j] = code_of<kStochastic>(v, by_row[k], noise, a.row_high);
          const std::uint32_t c = code_of<kStochastic>(v, factor[j], noise, a.column_high);
          words[j] = k == 0 ? c
                            : __byte_perm(words[j], c,
                                          k == 1   ? 0x3240
                                          : k == 2 ? 0x3410
                                                   : 0x4210);
        }
        *reinterpret_cast<uint2*>(a.row_codes + at) = {low_bytes(codes), low_bytes(codes + 4)};
      }
      // Kept where the lane's own values were until all 16 rows are done.
      auto* const kept = reinterpret_cast<uint4*>(patch.at(row + i, col));
      auto* const more = reinterpret_cast<uint4*>(patch.at(row + i + 1, col));
      *kept = {words[0], words[1], words[2], words[3]};
      *more = {words[4], words[5], words[6], words[7]};
    }
    if (!a.column_codes) continue;
    std::uint8_t* to = a.column_codes + std::int64_t{here.col0 + col} * a.rows + here.row0 + row;
#pragma unroll
    for (std::uint32_t half = 0; half < 2; ++half) {
      uint4 w[4];
#pragma unroll
      for (std::uint32_t k = 0; k < 4; ++k)
        w[k] = *reinterpret_cast<const uint4*>(patch.at(row + 4 * k + half, col));
      const uint4 turned[4] = {{w[0].x, w[1].x, w[2].x, w[3].x},
                               {w[0].y, w[1].y, w[2].y, w[3].y},
                               {w[0].z, w[1].z, w[2].z, w[3].z},
                               {w[0].w, w[1].w, w[2].w, w[3].w}};
#pragma unroll
      for (int j = 0; j < 4; ++j, to += a.rows) *reinterpret_cast<uint4*>(to) = turned[j];
    }
  }
}

template <Kind kKind, bool kStochastic, class T>
__global__ void __launch_bounds__(kBlock, 2) pair_kernel(const __grid_constant__ Arguments<T> a) {
  extern __shared__ __align__(128) unsigned char memory[];
  const Patch<T> patch(memory, a.width, a.groups);
  const Place here(a);
  const std::uint32_t barrier = shared_address(patch.barrier);
  for (std::uint32_t i = threadIdx.x; i < a.groups * kRows; i += kBlock) patch.row_most[i] = 0;
  if (threadIdx.x == 0) {
    hopper::init_barrier(barrier, 1);
    hopper::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x < kWarp) {
    const std::uint32_t bytes = here.cols * static_cast<std::uint32_t>(sizeof(T));
    if (threadIdx.x == 0) hopper::arrive_expecting(barrier, here.rows * bytes);
    __syncwarp();
    for (std::uint32_t row = threadIdx.x; row < here.rows; row += kWarp)
      hopper::load_bytes(shared_address(patch.at(row, 0)),
                         a.x + std::int64_t{here.row0 + row} * a.cols + here.col0, bytes, barrier);
  }
  hopper::wait(barrier, 0);
  if constexpr (kKind == Kind::LayerNorm || kKind == Kind::AddLayerNorm)
    prepare<kKind>(a, patch, here);
  survey<kKind>(a, patch, here);
  hopper::cluster_sync();
  settle(a, patch, here);
  hopper::cluster_arrive();  // neighbours' maxima have been read
  __syncthreads();
  encode<kStochastic>(a, patch, here);
  hopper::cluster_wait();
}

// ---- launch -----------------------------------------------------------------------------------

template <class... Params>
void launch_clusters(void (*kernel)(Params...), std::uint32_t clusters, std::uint32_t size,
                     std::size_t shared, const Params&... params) {
  NIBBLE_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(shared)));
  NIBBLE_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(clusters * size);
  config.blockDim = dim3(kBlock);
  config.dynamicSmemBytes = shared;
  config.stream = stream();
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {size, 1, 1};
  config.attrs = &attribute;
  config.numAttrs = 1;
  NIBBLE_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, params...));
}

template <Kind kKind, class T>
void run(Arguments<T>& a, bool stochastic) {
  constexpr bool kWhole = kKind == Kind::LayerNorm || kKind == Kind::AddLayerNorm;
  const std::int64_t unit = a.log_group > 7 ? kTile : 128;
  const int slices = pair_slices(a.cols, dtype_of<T>, unit, kWhole);
  a.slices = static_cast<std::uint32_t>(slices);
  a.width = static_cast<std::uint32_t>(pair_width(a.cols, slices, unit));
  a.groups = a.log_group > 7 ? 1 : a.width >> a.log_group;
  const auto clusters = static_cast<std::uint32_t>(ceil_div(a.rows, a.down * kRows));
  const std::size_t shared = Patch<T>::bytes(a.width, a.groups);
  if constexpr (kKind == Kind::Plain || kKind == Kind::GeluBackward)
    if (stochastic)
      return launch_clusters(pair_kernel<kKind, true, T>, clusters, a.down * a.slices, shared, a);
  launch_clusters(pair_kernel<kKind, false, T>, clusters, a.down * a.slices, shared, a);
}

// pair_norm.cu, pair_gelu.cu: units of their own, for the compiler.
extern template void run<Kind::LayerNorm>(Arguments<float>&, bool);
extern template void run<Kind::LayerNorm>(Arguments<bfloat16>&, bool);
extern template void run<Kind::AddLayerNorm>(Arguments<float>&, bool);
extern template void run<Kind::AddLayerNorm>(Arguments<bfloat16>&, bool);
extern template void run<Kind::Gelu>(Arguments<float>&, bool);
extern template void run<Kind::Gelu>(Arguments<bfloat16>&, bool);
extern template void run<Kind::GeluBackward>(Arguments<float>&, bool);
extern template void run<Kind::GeluBackward>(Arguments<bfloat16>&, bool);

}  // namespace nibble::cuda::pair
