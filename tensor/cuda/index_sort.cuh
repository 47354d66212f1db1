// A stable sort of indices: least-significant-digit radix, 8 bits a pass. Its order is fixed by the
// keys alone: integer atomics only count, positions follow from ranks. A pass reads 4 to 8 and
// writes 8 bytes an index; at 32 k indices launches (two a pass) cost more than that.
#pragma once

#include "tensor/cuda/common.cuh"

namespace nibble::cuda {

inline constexpr int kDigits = 256;
inline constexpr int kSortBlock = 256;  // one thread a digit
inline constexpr int kSortWarps = kSortBlock / static_cast<int>(kWarp);

__device__ inline int digit_of(std::int32_t key, int shift) {
  return static_cast<int>((static_cast<std::uint32_t>(key) >> shift) & (kDigits - 1));
}

// counts[block][digit] of a block's `tile` keys.
static __global__ void __launch_bounds__(kSortBlock)
    count_digits(std::int32_t* counts, const std::int32_t* keys, std::int64_t n, int tile,
                 int shift) {
  __shared__ std::int32_t count[kDigits];
  count[threadIdx.x] = 0;
  __syncthreads();
  const std::int64_t begin = std::int64_t{blockIdx.x} * tile, end = min(begin + tile, n);
  for (std::int64_t i = begin + threadIdx.x; i < end; i += kSortBlock)
    atomicAdd(&count[digit_of(keys[i], shift)], 1);
  __syncthreads();
  counts[std::int64_t{blockIdx.x} * kDigits + threadIdx.x] = count[threadIdx.x];
}

// Sum of x over the threads before this one.
__device__ inline std::int32_t block_exclusive_sum(std::int32_t x, std::int32_t* scratch) {
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  std::int32_t sum = x;
#pragma unroll
  for (unsigned step = 1; step < kWarp; step *= 2) {
    const std::int32_t before = __shfl_up_sync(kFullMask, sum, step);
    if (lane >= step) sum += before;
  }
  if (lane == kWarp - 1) scratch[warp] = sum;
  __syncthreads();
  for (unsigned w = 0; w < warp; ++w) sum += scratch[w];
  return sum - x;
}

// Moves each key, and where it came from, to its place. A warp walks its part of the tile in order,
// 32 keys at a time; equal digits of one step rank by lane. A null `source` is 0, 1, 2, …
static __global__ void __launch_bounds__(kSortBlock)
    scatter_digits(std::int32_t* to_keys, std::int32_t* to_source, const std::int32_t* keys,
                   const std::int32_t* source, const std::int32_t* counts, std::int64_t n, int tile,
                   int shift) {
  __shared__ std::int32_t next[kSortWarps][kDigits];
  __shared__ std::int32_t scratch[kSortWarps];
  const int digit = static_cast<int>(threadIdx.x);
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int w = 0; w < kSortWarps; ++w) next[w][digit] = 0;

  std::int32_t total = 0, before = 0;  // of this digit: everywhere, and in earlier tiles
  for (unsigned b = 0; b < gridDim.x; ++b) {
    if (b == blockIdx.x) before = total;
    total += counts[std::int64_t{b} * kDigits + digit];
  }
  std::int32_t at = block_exclusive_sum(total, scratch) + before;  // synchronises the block

  const int part = tile / kSortWarps;
  const std::int64_t begin = std::int64_t{blockIdx.x} * tile + std::int64_t{warp} * part;
  const std::int64_t end = min(begin + part, n);
  for (std::int64_t i = begin + lane; i < end; i += kWarp)
    atomicAdd(&next[warp][digit_of(keys[i], shift)], 1);
  __syncthreads();
  for (int w = 0; w < kSortWarps; ++w) {
    const std::int32_t count = next[w][digit];
    next[w][digit] = at;
    at += count;
  }
  __syncthreads();

  for (std::int64_t first = begin; first < end; first += kWarp) {
    const std::int64_t i = first + lane;
    const bool valid = i < end;
    const std::int32_t key = valid ? keys[i] : 0;
    const int d = valid ? digit_of(key, shift) : kDigits;
    const unsigned peers = __match_any_sync(kFullMask, d);
    const unsigned lower = peers & ((1u << lane) - 1);
    if (valid) {
      const std::int32_t place = next[warp][d] + __popc(lower);
      to_keys[place] = key;
      to_source[place] = source ? source[i] : static_cast<std::int32_t>(i);
    }
    __syncwarp();
    if (valid && lower == 0) next[warp][d] += __popc(peers);
    __syncwarp();
  }
}

struct SortedIndices {
  struct View {
    const std::int32_t *keys, *source;
    std::int64_t n;
  };
  Tensor memory;  // I32, owns what the pointers refer to
  const std::int32_t* keys;
  const std::int32_t* source;
};

// Sorts `index` (n values in [0, rows)); other values end up anywhere.
inline SortedIndices sort_indices(const std::int32_t* index, std::int64_t n, std::int64_t rows,
                                  Device device) {
  constexpr int kMinTile = 1024;
  constexpr std::int64_t kMaxBlocks = 256;  // every block reads the counts of all
  const int tile = static_cast<int>(kMinTile * ceil_div(n, kMinTile * kMaxBlocks));
  const auto blocks = static_cast<unsigned>(ceil_div(n, tile));
  int passes = 1;
  while (passes < 4 && rows > std::int64_t{1} << (8 * passes)) ++passes;

  const int buffers = passes == 1 ? 2 : 4;
  SortedIndices s{Tensor::empty({buffers * n + std::int64_t{blocks} * kDigits}, DType::I32, device),
                  index, nullptr};
  std::int32_t* const memory = s.memory.data<std::int32_t>();
  std::int32_t* const counts = memory + buffers * n;
  for (int pass = 0; pass < passes; ++pass) {
    std::int32_t* const keys = memory + (pass % 2) * 2 * n;
    launch(count_digits, blocks, kSortBlock, 0, counts, s.keys, n, tile, 8 * pass);
    launch(scatter_digits, blocks, kSortBlock, 0, keys, keys + n, s.keys, s.source, counts, n, tile,
           8 * pass);
    s.keys = keys;
    s.source = keys + n;
  }
  return s;
}

}  // namespace nibble::cuda
