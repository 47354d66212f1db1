// Building blocks of the bf16 attention kernels on warpgroup products (compute capability 9.0). One
// thread of a producer warp streams tiles through stages in shared memory by the copy engine;
// consumer warpgroups own 64 rows each. Accumulators have the layout of attention_mma.cuh's, so
// that softmax, dropout draws and stores are shared, and packed they are left operands as they
// stand. Tiles lie in columns of 64: [kWidth / 64][rows][128 bytes], 128-byte swizzled.
#pragma once

#include "tensor/cuda/attention_mma.cuh"
#include "tensor/cuda/hopper.cuh"
#include "tensor/cuda/ptx/wgmma_bf16.cuh"
#include "tensor/cuda/tensor_map.h"

namespace nibble::cuda {

inline constexpr int kGroupThreads = 128, kGroupRows = 64, kGroupWarps = 4;

// Warpgroups 0 … kGroups - 1 consume, what follows produces. With one block to a multiprocessor the
// producer is a warpgroup, which gives its registers to the others.
template <int kGroups_, int kBlocks_>
struct Roles {
  static constexpr int kGroups = kGroups_, kBlocks = kBlocks_;
  static constexpr int kProducers = kBlocks == 1 ? kGroupThreads : 0;
  static constexpr int kThreads = kGroups * kGroupThreads + kProducers;
  static constexpr int kRows = kGroups * kGroupRows;

  // The warp, read from one lane so that the compiler knows it to be one value.
  __device__ static int warp() {
    return __shfl_sync(kFullMask, static_cast<int>(threadIdx.x / kWarp), 0);
  }
  __device__ static bool copies() { return threadIdx.x == kGroups * kGroupThreads; }
  __device__ static void begin_producer() {
    if constexpr (kBlocks == 1) hopper::give_registers<kGroups == 2 ? 24 : 32>();
  }
  __device__ static void begin_consumer() {
    if constexpr (kBlocks == 1) hopper::take_registers<kGroups == 2 ? 240 : 160>();
  }
};

// Which tile of which head a block takes: head by head, so that neighbours share in L2 what streams
// past, and the longest first under a causal mask. The last heads go tile by tile: of theirs, too,
// the longest come first, for one that started last would outlast all others.
struct TileOrder {
  int tiles, heads, apart;  // apart: heads that go one by one

  // `slots`: blocks (clusters) that a GPU holds at once.
  TileOrder(int all_tiles, int all_heads, bool causal, std::int64_t slots)
      : tiles(all_tiles), heads(all_heads) {
    const std::int64_t together = causal && tiles > 0 ? ceil_div(2 * slots, tiles) : 0;
    apart = static_cast<int>(::max(heads - together, std::int64_t{0}));
  }
  struct Place {
    int tile, head;  // tile 0 is the longest
  };
  __device__ Place place(int i) const {
    if (i < apart * tiles) return {i % tiles, i / tiles};
    const int together = heads - apart;
    i -= apart * tiles;
    return {i / together, apart + i % together};
  }
};

// Barriers of kCount stages at `address`; consumers free a stage warp by warp.
template <int kCount, class R>
class Stages {
 public:
  static constexpr int kBytes = 16 * kCount;
  __device__ explicit Stages(std::uint32_t address)
      : full_(address), empty_(address + 8 * kCount) {}
  __device__ void init() const {
    for (unsigned i = 0; i < kCount; ++i) {
      hopper::init_barrier(full_ + 8 * i, 1);
      hopper::init_barrier(empty_ + 8 * i, R::kGroups * kGroupWarps);
    }
  }
  // Step `step` of the whole kernel uses this stage.
  __device__ static std::uint32_t of(int step) { return static_cast<std::uint32_t>(step % kCount); }
  // Producer: waits until the stage is free, announces `bytes`; the barrier that copies complete.
  __device__ std::uint32_t fill(int step, std::uint32_t bytes) const {
    if (step >= kCount) hopper::wait(empty_ + 8 * of(step), parity(step) ^ 1);
    hopper::arrive_expecting(full_ + 8 * of(step), bytes);
    return full_ + 8 * of(step);
  }
  __device__ void wait(int step) const { hopper::wait(full_ + 8 * of(step), parity(step)); }
  // Once by every consumer warp for every step, after it has waited for it.
  __device__ void release(int step) const {
    if (threadIdx.x % kWarp == 0) hopper::arrive(empty_ + 8 * of(step));
  }

 private:
  __device__ static std::uint32_t parity(int step) {
    return static_cast<std::uint32_t>(step / kCount) & 1;
  }
  std::uint32_t full_, empty_;
};

// Starts copying kRows rows of a head from `row` on; what lies outside becomes zeros.
template <int kRows, int kWidth>
__device__ void load_rows(std::uint32_t to, const CUtensorMap& map, std::uint32_t barrier, int row,
                          int head, int b) {
#pragma unroll
  for (int half = 0; half < kWidth / 64; ++half)
    hopper::load_tile(to + static_cast<std::uint32_t>(half * kRows * 128), map, barrier, half * 64,
                      row, head, b);
}

// All copies of a producer.
template <class CopyOwn, class Copy>
__device__ void copy_all(CopyOwn copy_own, Copy copy, int steps) {
  copy_own();
  for (int step = 0; step < steps; ++step) copy(step);
}
// Without a producer, the first thread copies. Its call at a step, which every consumer makes,
// fills the stage of two steps before: the group's own sums of that step are over.
template <class C, class CopyOwn, class Copy>
class Refill {
 public:
  __device__ Refill(CopyOwn copy_own, Copy copy, int steps) : copy_(copy), steps_(steps) {
    static_assert(C::kProducers > 0 || C::kStages > 2);
    if (C::kProducers > 0) return;
    if (threadIdx.x == 0) copy_all(copy_own, copy, ::min(kAhead, steps));
    __syncwarp();
  }
  __device__ void operator()(int step) const {
    if (C::kProducers > 0) return;
    if (threadIdx.x == 0 && step + kAhead < steps_) copy_(step + kAhead);
    __syncwarp();
  }

 private:
  static constexpr int kAhead = C::kStages - 2;
  Copy copy_;
  int steps_;
};
template <class C, class CopyOwn, class Copy>
__device__ Refill<C, CopyOwn, Copy> refill_with(CopyOwn copy_own, Copy copy, int steps) {
  return {copy_own, copy, steps};
}

// Starts c = a · bᵀ of the warpgroup's 64 rows at `a` with the kColumns rows at `b`.
template <int kWidth, int kColumns>
__device__ void start_scores(Accumulators<1, kColumns>& c, std::uint32_t a, std::uint32_t b) {
  hopper::wgmma_fence();
#pragma unroll
  for (int k = 0; k < kWidth / 16; ++k) {
    const auto half = static_cast<std::uint32_t>(k / 4);
    hopper::wgmma<false>(c.v[0], hopper::swizzled_rows(a + half * kGroupRows * 128) + 2 * (k % 4),
                         hopper::swizzled_rows(b + half * kColumns * 128) + 2 * (k % 4), k > 0);
  }
}

// Weights of the warpgroup's rows for kSummed rows, rounded to bf16 and packed as a left operand.
template <int kSummed>
struct Weights {
  std::uint32_t v[kSummed / 16][4];

  __device__ void pack(const Accumulators<1, kSummed>& x) {
#pragma unroll
    for (int k = 0; k < kSummed / 16; ++k) {
      const float(&w0)[4] = x.v[0][2 * k], (&w1)[4] = x.v[0][2 * k + 1];
      v[k][0] = pack_bf16(w0[0], w0[1]);
      v[k][1] = pack_bf16(w0[2], w0[3]);
      v[k][2] = pack_bf16(w1[0], w1[1]);
      v[k][3] = pack_bf16(w1[2], w1[3]);
    }
  }
};
// Starts c += weights · tile, over the tile's kSummed rows.
template <int kWidth, int kSummed>
__device__ void start_sums(Accumulators<1, kWidth>& c, const Weights<kSummed>& weights,
                           std::uint32_t tile) {
  const std::uint64_t rows = hopper::summed_rows(tile, kSummed * 128);
  hopper::wgmma_fence();
#pragma unroll
  for (int k = 0; k < kSummed / 16; ++k)
    hopper::wgmma<true>(c.v[0], weights.v[k], rows + 128 * k, 1);
}

// Keeps the compiler from moving uses of accumulators across a wait for their products.
template <int kColumns>
__device__ void keep(Accumulators<1, kColumns>& x) {
#pragma unroll
  for (int n = 0; n < kColumns / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) asm volatile("" : "+f"(x.v[0][n][e])::"memory");
}

// Waits for the warpgroup's threads alone.
__device__ inline void sync_group() {
  hopper::sync_threads(1 + threadIdx.x / kGroupThreads, kGroupThreads);
}

template <class T>
CUtensorMap map_of(const HeadsView<T>& x, const AttentionShape& s, int rows, int heads, int box) {
  return heads_map(x.data, {s.batch, rows, heads, s.width}, x.batch_stride, x.row_stride,
                   x.head_stride, static_cast<std::uint32_t>(box));
}

}  // namespace nibble::cuda
