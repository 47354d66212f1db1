// Codes turned, packed and unpacked. The transpose moves a byte an element each way, packing a byte
// and a half; both do one or two operations a word. Bound by memory.
#include "quant/kernels.h"
#include "tensor/cuda/common.cuh"

namespace nibble::cuda {
namespace {

constexpr unsigned kBlock = 256;

// ---- transpose -----------------------------------------------------------------------------

constexpr int kTile = 128;  // a tile's rows and columns; 128 bytes are a whole line both ways
constexpr int kRun = 16;    // bytes of a load or store

// The 4 x 4 bytes of four words, one row a word, turned.
__device__ void turn(std::uint32_t& a, std::uint32_t& b, std::uint32_t& c, std::uint32_t& d) {
  const std::uint32_t ab_low = __byte_perm(a, b, 0x5140), ab_high = __byte_perm(a, b, 0x7362);
  const std::uint32_t cd_low = __byte_perm(c, d, 0x5140), cd_high = __byte_perm(c, d, 0x7362);
  a = __byte_perm(ab_low, cd_low, 0x5410);
  b = __byte_perm(ab_low, cd_low, 0x7632);
  c = __byte_perm(ab_high, cd_high, 0x5410);
  d = __byte_perm(ab_high, cd_high, 0x7632);
}

// A tile passes through shared memory as it lies. A thread then takes 16 rows of 4 columns, turns
// them and owns 16 bytes of each of 4 rows of y. Words of a row are swapped in steps of four by the
// row's group of 16, so that a warp's reads, 8 groups at once, meet 32 banks.
// kRuns: rows of x and y start at aligned addresses and are whole runs.
template <bool kRuns>
__global__ void __launch_bounds__(kBlock)
    transpose_codes_kernel(std::uint8_t* y, const std::uint8_t* x, std::int64_t rows,
                           std::int64_t cols, std::uint32_t across) {
  alignas(16) __shared__ std::uint32_t tile[kTile][kTile / 4];
  const std::int64_t top = std::int64_t{blockIdx.x / across} * kTile;
  const std::int64_t left = std::int64_t{blockIdx.x % across} * kTile;

  using Run = Vector<std::uint8_t, kRun>;
#pragma unroll
  for (int k = 0; k < kTile * kTile / kRun / static_cast<int>(kBlock); ++k) {
    const int i = k * static_cast<int>(kBlock) + static_cast<int>(threadIdx.x);
    const int r = i / (kTile / kRun), c = i % (kTile / kRun) * kRun;
    const std::uint8_t* from = x + (top + r) * cols + left + c;
    Run run{};
    if constexpr (kRuns) {
      if (top + r < rows && left + c < cols) run = load_vector<std::uint8_t, kRun>(from);
    } else {
#pragma unroll
      for (int j = 0; j < kRun; ++j)
        if (top + r < rows && left + c + j < cols) run[j] = from[j];
    }
    *reinterpret_cast<Run*>(&tile[r][(c / 4) ^ (4 * (r / 16))]) = run;
  }
  __syncthreads();

  const int group = static_cast<int>(threadIdx.x) % 8, word = static_cast<int>(threadIdx.x) / 8;
  std::uint32_t w[kRun];
#pragma unroll
  for (int j = 0; j < kRun; ++j) w[j] = tile[kRun * group + j][word ^ (4 * group)];
#pragma unroll
  for (int j = 0; j < kRun; j += 4) turn(w[j], w[j + 1], w[j + 2], w[j + 3]);
  const std::int64_t row = top + kRun * group;
  if (row >= rows) return;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const std::int64_t col = left + 4 * word + k;
    if (col >= cols) return;
    std::uint8_t* to = y + col * rows + row;
    if constexpr (kRuns) {
      store_vector(reinterpret_cast<std::uint32_t*>(to),
                   Vector<std::uint32_t, 4>{w[k], w[4 + k], w[8 + k], w[12 + k]});
    } else {
#pragma unroll
      for (int j = 0; j < kRun; ++j)
        if (row + j < rows) to[j] = static_cast<std::uint8_t>(w[j / 4 * 4 + k] >> (8 * (j % 4)));
    }
  }
}

// ---- two codes a byte ----------------------------------------------------------------------

// Rows of an even number of codes follow each other without padding: a flat row of `pairs` bytes.
struct Pairs {
  std::int64_t rows, cols;  // in codes
  NIBBLE_HD std::int64_t stride() const { return (cols + 1) / 2; }
  NIBBLE_HD std::int64_t bytes() const { return rows * stride(); }
};
Pairs pairs_of(const Tensor& codes) {
  const std::int64_t rows = codes.size(0), cols = codes.size(1);
  return cols % 2 == 0 ? Pairs{1, rows * cols} : Pairs{rows, cols};
}

constexpr int kBytes = 8;  // packed bytes of a thread where everything is aligned

// Of four codes the even ones' bytes hold two codes each; the odd bytes are dropped later.
__device__ std::uint32_t join(std::uint32_t codes) {
  const std::uint32_t nibbles = codes & 0x0f0f0f0fu;
  return nibbles | nibbles >> 4;
}

__global__ void __launch_bounds__(kBlock)
    pack_vectors_kernel(std::uint8_t* packed, const std::uint8_t* codes, std::int64_t vectors) {
  const std::int64_t v = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (v >= vectors) return;
  const auto in = load_vector<std::uint32_t>(reinterpret_cast<const std::uint32_t*>(codes) + v * 4);
  store_vector(reinterpret_cast<std::uint32_t*>(packed) + v * 2,
               Vector<std::uint32_t, 2>{__byte_perm(join(in[0]), join(in[1]), 0x6420),
                                        __byte_perm(join(in[2]), join(in[3]), 0x6420)});
}
// Bytes from number `first` on.
__global__ void __launch_bounds__(kBlock)
    pack_kernel(std::uint8_t* packed, const std::uint8_t* codes, Pairs p, std::int64_t first) {
  const std::int64_t stride = std::int64_t{gridDim.x} * kBlock;
  for (std::int64_t i = first + std::int64_t{blockIdx.x} * kBlock + threadIdx.x; i < p.bytes();
       i += stride) {
    const std::int64_t row = i / p.stride(), col = 2 * (i - row * p.stride());
    const std::uint8_t* from = codes + row * p.cols + col;
    const unsigned high = col + 1 < p.cols ? from[1] : 0u;
    packed[i] = static_cast<std::uint8_t>((from[0] & 0xfu) | (high << 4));
  }
}

// Four nibbles, one a byte, with their sign extended when `sign` is 8: no byte borrows from the
// next one, since its top bit is set meanwhile.
__device__ std::uint32_t widen(std::uint32_t nibbles, std::uint32_t sign) {
  const std::uint32_t signs = sign * 0x01010101u;
  return (((nibbles ^ signs) | 0x80808080u) - signs) ^ 0x80808080u;
}
__global__ void __launch_bounds__(kBlock)
    unpack_vectors_kernel(std::uint8_t* codes, const std::uint8_t* packed, std::int64_t vectors,
                          std::uint32_t sign) {
  const std::int64_t v = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (v >= vectors) return;
  const auto in =
      load_vector<std::uint32_t, 2>(reinterpret_cast<const std::uint32_t*>(packed) + v * 2);
  Vector<std::uint32_t, 4> out;
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const std::uint32_t even = in[k] & 0x0f0f0f0fu, odd = in[k] >> 4 & 0x0f0f0f0fu;
    out[2 * k] = widen(__byte_perm(even, odd, 0x5140), sign);
    out[2 * k + 1] = widen(__byte_perm(even, odd, 0x7362), sign);
  }
  store_vector(reinterpret_cast<std::uint32_t*>(codes) + v * 4, out);
}
__global__ void __launch_bounds__(kBlock)
    unpack_kernel(std::uint8_t* codes, const std::uint8_t* packed, Pairs p, std::int64_t first,
                  std::uint32_t sign) {
  const std::int64_t stride = std::int64_t{gridDim.x} * kBlock;
  for (std::int64_t i = first + std::int64_t{blockIdx.x} * kBlock + threadIdx.x; i < p.bytes();
       i += stride) {
    const std::int64_t row = i / p.stride(), col = 2 * (i - row * p.stride());
    std::uint8_t* to = codes + row * p.cols + col;
    to[0] = static_cast<std::uint8_t>(widen(packed[i] & 0xfu, sign));
    if (col + 1 < p.cols) to[1] = static_cast<std::uint8_t>(widen(packed[i] >> 4, sign));
  }
}

// Calls vectors(n) for the bytes that whole vectors cover and rest(first, n) for the others.
template <class Vectors, class Rest>
void split(const Pairs& p, bool aligned, Vectors&& vectors, Rest&& rest) {
  const std::int64_t whole = aligned && p.rows == 1 && p.cols % 2 == 0 ? p.bytes() / kBytes : 0;
  if (whole > 0) vectors(whole);
  if (const std::int64_t left = p.bytes() - whole * kBytes; left > 0) rest(whole * kBytes, left);
}

}  // namespace

void quant_transpose(Tensor& y, const Tensor& x) {
  const std::int64_t rows = x.size(0), cols = x.size(1);
  const auto* in = reinterpret_cast<const std::uint8_t*>(x.raw());
  auto* out = reinterpret_cast<std::uint8_t*>(y.raw());
  const std::int64_t across = ceil_div(cols, kTile), tiles = across * ceil_div(rows, kTile);
  NIBBLE_CHECK(tiles < std::int64_t{1} << 31, "transpose", "{} is too large for one GPU kernel",
               describe(x));
  const bool runs =
      rows % kRun == 0 && cols % kRun == 0 && is_aligned(in, kRun) && is_aligned(out, kRun);
  // A block a tile: blocks that stay and read ahead are slower, 51 µs for 20
  // (2026-11-29-memory-bound.md).
  launch(runs ? transpose_codes_kernel<true> : transpose_codes_kernel<false>,
         static_cast<unsigned>(tiles), kBlock, 0, out, in, rows, cols,
         static_cast<std::uint32_t>(across));
}

void quant_pack(Tensor& packed, const Tensor& codes) {
  const Pairs p = pairs_of(codes);
  const auto* in = reinterpret_cast<const std::uint8_t*>(codes.raw());
  auto* out = reinterpret_cast<std::uint8_t*>(packed.raw());
  split(
      p, is_aligned(in, 16) && is_aligned(out, 8),
      [&](std::int64_t n) {
        launch(pack_vectors_kernel, static_cast<unsigned>(ceil_div(n, kBlock)), kBlock, 0, out, in,
               n);
      },
      [&](std::int64_t first, std::int64_t n) {
        launch(pack_kernel, grid_for(n, kBlock), kBlock, 0, out, in, p, first);
      });
}

void quant_unpack(Tensor& codes, const Tensor& packed) {
  const Pairs p = pairs_of(codes);
  const std::uint32_t sign = codes.dtype() == DType::I8 ? 8 : 0;
  const auto* in = reinterpret_cast<const std::uint8_t*>(packed.raw());
  auto* out = reinterpret_cast<std::uint8_t*>(codes.raw());
  split(
      p, is_aligned(in, 8) && is_aligned(out, 16),
      [&](std::int64_t n) {
        launch(unpack_vectors_kernel, static_cast<unsigned>(ceil_div(n, kBlock)), kBlock, 0, out,
               in, n, sign);
      },
      [&](std::int64_t first, std::int64_t n) {
        launch(unpack_kernel, grid_for(n, kBlock), kBlock, 0, out, in, p, first, sign);
      });
}

}  // namespace nibble::cuda
