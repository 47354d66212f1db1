// A consumer warpgroup of the kernel of products with local scales (int_gemm_grouped.cu): it
// multiplies the stages that the producers fill, rescales the sums, leaves a helper's part for the
// tile's other cluster or joins such parts in order, and writes results.
#pragma once

#include "quant/cuda/grouped_tile.cuh"

namespace nibble::cuda::grouped {

template <class S>
struct Consumer {
  static constexpr int kSums = kCols / 2;  // a thread's

  const Problem& p;
  const CUtensorMap& map_c;
  const Output& out;
  std::uint32_t base;            // of shared memory
  std::uint32_t rank;            // in the cluster
  std::uint32_t group;           // rows 64 · group … of a tile
  std::uint32_t row;             // the thread's first within the tile; the other is 8 further down
  std::uint32_t thread;          // within the warpgroup
  std::uint64_t rows_a, rows_b;  // the operands in the first stage
  std::uint32_t empty;           // the barrier of the first stage that this lane arrives at
  std::uint32_t scales_a, scales_b;  // the thread's scales in the first block
  Ring<kStages> codes = {};
  Ring<kScaleStages> scales = {};
  std::int32_t sums[kSums];
  float results[kSums];

  __device__ Consumer(const Problem& problem, const CUtensorMap& map, const Output& output,
                      std::uint32_t shared, std::uint32_t cluster_rank)
      : p(problem), map_c(map), out(output), base(shared), rank(cluster_rank) {
    // The same in a whole warp, as the compiler sees now.
    group = __shfl_sync(kFullMask, threadIdx.x / 128 - 1, 0);
    thread = threadIdx.x % 128;
    row = group * 64 + thread / 32 * 16 + thread % 32 / 4;
    rows_a = hopper::swizzled_rows(base + group * 64 * kStep);
    rows_b = hopper::swizzled_rows(base + S::kStageA);
    scales_a = base + S::kScales + row * 4;
    scales_b = base + S::kScales + (kRows + (S::kSharedB ? 0 : thread % 4 * 2)) * 4;
    // Lanes arrive at the blocks of their row of the cluster, then at those of their column.
    const std::uint32_t lane = thread % 32, i = rank / S::kAcross, j = rank % S::kAcross,
                        other = lane - S::kAcross, down = other < i ? other : other + 1;
    empty = hopper::address_in(lane < S::kAcross    ? i * S::kAcross + lane
                               : lane < S::kSharers ? down * S::kAcross + j
                                                    : rank,
                               base + S::kEmpty);
  }

  __device__ bool leads() const { return thread == 0; }
  __device__ void sync() const { hopper::sync_threads(1 + group, 128); }

  // ---- products ---------------------------------------------------------------------------------

  // Enqueues the products of the next stage.
  __device__ void multiply(bool fresh) {
    const std::uint32_t from = codes.stage * S::kStage;
    hopper::wait(base + S::kFull + codes.stage * 8, codes.parity);
    codes.advance();
    hopper::keep(sums);
    hopper::wgmma_fence();
#pragma unroll
    for (int depth = 0; depth < 4; ++depth)
      int8::wgmma(sums, hopper::rows_after(rows_a, from + depth * 32),
                  hopper::rows_after(rows_b, from + depth * 32), depth > 0 || !fresh);
    hopper::wgmma_commit();
  }
  // The stage may be refilled by all whose copies reach it, as far as this warp is concerned.
  __device__ void release(std::uint32_t stage) const {
    __syncwarp();
    if (thread % 32 < S::kSharers) hopper::arrive_remote(empty + stage * 8);
  }

  // One contraction block, whose scales are `at` bytes further: f = fma(sum, sa · sb, f).
  __device__ void add_block(std::uint32_t at) {
    const std::uint32_t steps = S::kBlockSteps ? S::kBlockSteps : p.block_steps;
    std::uint32_t stage = codes.stage;
    multiply(true);
    for (std::uint32_t step = 1; step < steps; ++step) {
      const std::uint32_t next = codes.stage;
      multiply(false);
      hopper::wgmma_wait<1>();
      release(stage);
      stage = next;
    }
    const float down[2] = {load_shared(scales_a + at), load_shared(scales_a + at + 32)};
    float across[2] = {};
    if constexpr (S::kSharedB) load_shared(across, scales_b + at);
    hopper::wgmma_wait<0>();
    hopper::keep(sums);
    release(stage);
#pragma unroll
    for (int j = 0; j < kSums / 4; ++j) {
      float sb[2] = {across[j / 8], across[j / 8]};
      if constexpr (!S::kSharedB) load_shared(sb, scales_b + at + j * 32);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float& f = results[j * 4 + e];
        f = __fmaf_rn(__int2float_rn(sums[j * 4 + e]), __fmul_rn(down[e / 2], sb[e % 2]), f);
      }
    }
  }
  __device__ void contract(const Item<S>& item) {
    const std::uint32_t end = item.first_block + item.blocks;
    for (std::uint32_t block = item.first_block; block < end;) {
      const std::uint32_t stop = min(end, block / kQuad * kQuad + kQuad);
      std::uint32_t at = scales.stage * S::kScaleStage + block % kQuad * S::kScaleBlock;
      hopper::wait(base + S::kScaleFull + scales.stage * 8, scales.parity);
#pragma unroll 1
      for (; block < stop; ++block, at += S::kScaleBlock) add_block(at);
      hopper::arrive(base + S::kScaleEmpty + scales.stage * 8);
      scales.advance();
    }
  }

  // ---- results ----------------------------------------------------------------------------------

  // Where this group's results of a slot lie.
  __device__ std::uint32_t place(std::uint32_t slot) const {
    return (slot * S::kCluster + rank) * kGroups + group;
  }
  static constexpr int kFours = kSums / 4;
  __device__ float4* partial(std::uint32_t slot) const {
    return p.partial + std::int64_t{place(slot)} * kFours * 128 + thread;
  }
  __device__ void leave(std::uint32_t slot) const {
    float4* const to = partial(slot);
    const float* const f = results;
#pragma unroll
    for (int i = 0; i < kFours; ++i)
      __stcg(to + i * 128, make_float4(f[i * 4], f[i * 4 + 1], f[i * 4 + 2], f[i * 4 + 3]));
  }
  __device__ void tell(std::uint32_t slot) const {
    __threadfence();
    sync();
    if (leads()) hopper::add_releasing(p.there + place(slot), 1);
  }
  // The segments after the first, in their order.
  __device__ void join(const Item<S>& item) {
    if (item.parts == 0) return;
    for (std::uint32_t i = thread; i < item.parts; i += 128) {
      std::uint32_t* const flag = p.there + place(item.slot + i);
      while (hopper::load_acquiring(flag) == 0) __nanosleep(64);
      *flag = 0;  // nobody else reads it
    }
    sync();
    float* const f = results;
#pragma unroll 1
    for (std::uint32_t part = 0; part < item.parts; ++part) {
      const float4* const from = partial(item.slot + part);
      float4 later[kFours];  // all under way at once
#pragma unroll
      for (int i = 0; i < kFours; ++i) later[i] = __ldcg(from + i * 128);
#pragma unroll
      for (int i = 0; i < kFours; ++i) {
        f[i * 4] = __fadd_rn(f[i * 4], later[i].x);
        f[i * 4 + 1] = __fadd_rn(f[i * 4 + 1], later[i].y);
        f[i * 4 + 2] = __fadd_rn(f[i * 4 + 2], later[i].z);
        f[i * 4 + 3] = __fadd_rn(f[i * 4 + 3], later[i].w);
      }
    }
  }

  // Bias comes while the products are formed, of bf16 two in a word.
  __device__ void fetch_bias(const Item<S>& item) const {
    if (!p.bias) return;
    sync();  // the tile before has read its own
    const std::uint32_t to = base + S::kBias + (group * kCols + thread) * 4;
    if (!p.bias.is_bf16)
      copy4_async(to, static_cast<const float*>(p.bias.values) + min(item.col + thread, p.n - 1));
    else if (thread < kCols / 2)
      copy4_async(to, static_cast<const bfloat16*>(p.bias.values) +
                          min(item.col + thread * 2, (p.n - 1) & ~1u));
    commit_copies();  // or add_bias would not wait for it
  }
  __device__ void add_bias() {
    if (!p.bias) return;
    wait_for_copies<0>();
    sync();
    const std::uint32_t from = base + S::kBias + group * kCols * 4;
#pragma unroll
    for (int j = 0; j < kSums / 4; ++j) {
      float y[2];
      if (p.bias.is_bf16) {
        const std::uint32_t two = __float_as_uint(load_shared(from + (j * 4 + thread % 4) * 4));
        y[0] = __uint_as_float(two << 16);
        y[1] = __uint_as_float(two & 0xffff0000u);
      } else {
        load_shared(y, from + (j * 8 + thread % 4 * 2) * 4);
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) results[j * 4 + e] = __fadd_rn(results[j * 4 + e], y[e % 2]);
    }
  }
  __device__ std::uint32_t box(std::uint32_t index) const {
    return base + S::kOut + ((group * 4 + thread / 32) * S::kBoxes + index) * S::kBox;
  }
  // bf16 through shared memory and the copy engine, a warp's 16 rows by 64 columns at a time.
  __device__ void write_boxes(const Item<S>& item) const {
    const std::uint32_t lane = thread % 32, r = lane % 16;
    if (lane == 0) hopper::wait_for_store_reads<0>();
    __syncwarp();
#pragma unroll
    for (int at = 0; at < static_cast<int>(S::kBoxes); ++at) {
#pragma unroll
      for (int four = 0; four < 4; ++four) {  // 16 columns
        std::uint32_t words[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const float* const f = results + (at * 8 + four * 2 + k / 2) * 4 + k % 2 * 2;
          asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(words[k]) : "f"(f[1]), "f"(f[0]));
        }
        const std::uint32_t chunk = four * 2 + lane / 16;
        hopper::store_matrices(box(at) + r * 128 + (chunk ^ (r % 8)) * 16, words);
      }
    }
    hopper::fence_for_copy_engine();
    __syncwarp();
    if (lane == 0) {
#pragma unroll
      for (std::uint32_t at = 0; at < S::kBoxes; ++at)
        hopper::store_tile(map_c, box(at), item.col + at * 64,
                           item.row + group * 64 + thread / 32 * 16);
      hopper::commit_stores();
    }
  }
  // f32 straight from registers: whole sectors of 32 bytes leave a warp.
  __device__ void write_pairs(const Item<S>& item) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t r = item.row + row + half * 8;
      if (r >= p.m) break;
      auto* const to = static_cast<float*>(out.c) + r * out.stride + item.col + thread % 4 * 2;
      // What is added to comes several at a time: one by one its latency would be the kernel's
      // time.
      constexpr int kAhead = 4;
      static_assert(kSums / 4 % kAhead == 0);
#pragma unroll
      for (int first = 0; first < kSums / 4; first += kAhead) {
        Vector<float, 2> v[kAhead];
        if (out.accumulate) {
#pragma unroll
          for (int k = 0; k < kAhead; ++k) v[k] = load_vector<float, 2>(to + (first + k) * 8);
        }
#pragma unroll
        for (int k = 0; k < kAhead; ++k) {
          const float* const f = results + (first + k) * 4 + half * 2;
          v[k] = out.accumulate
                     ? Vector<float, 2>{{__fadd_rn(v[k][0], f[0]), __fadd_rn(v[k][1], f[1])}}
                     : Vector<float, 2>{{f[0], f[1]}};
          store_vector(to + (first + k) * 8, v[k]);
        }
      }
    }
  }
  // Any result, 32 columns at a time: through shared memory, so that the code stays small.
  __device__ void write_runs(const Item<S>& item) const {
    const std::uint32_t lane = thread % 32;
#pragma unroll
    for (int first = 0; first < static_cast<int>(kCols); first += 32) {
      __syncwarp();  // the box has been read
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float* const f = results + (first / 8 + i / 2) * 4 + i % 2 * 2;
        const std::uint32_t r = lane / 4 + i % 2 * 8, chunk = i / 2 * 2 + lane % 4 / 2;
        store_shared(box(0) + r * 128 + (chunk ^ (r % 8)) * 16 + lane % 2 * 8, f[0], f[1]);
      }
      __syncwarp();
#pragma unroll 1
      for (std::uint32_t i = lane; i < 16 * 8; i += 32) {
        const std::uint32_t r = i / 8, chunk = i % 8;
        float f[4];
        load_shared(f, box(0) + r * 128 + (chunk ^ (r % 8)) * 16);
        out.store4(f, item.row + group * 64 + thread / 32 * 16 + r, item.col + first + chunk * 4);
      }
    }
  }
  __device__ void end(const Item<S>& item) {
    join(item);
    add_bias();
    if (p.boxes)
      write_boxes(item);
    else if (!out.is_bf16 && out.vectors && item.col + kCols <= p.n)
      write_pairs(item);
    else
      write_runs(item);
  }

  __device__ void consume(std::uint32_t cluster) {
    // A part is told of when the products after it are formed: waiting for its stores would leave
    // the tensor cores idle.
    constexpr std::uint32_t kNone = ~0u;
    std::uint32_t left = kNone;
    SegmentWalk walk(p.segments, cluster, p.clusters);
    for (TileSegment segment; walk.next(segment);) {
      const Item<S> item(p, segment, rank);
      if (item.first_block == 0) fetch_bias(item);
#pragma unroll
      for (float& f : results) f = 0;
      contract(item);
      if (left != kNone) tell(left);
      left = kNone;
      if (item.first_block > 0)
        leave(left = item.slot);
      else
        end(item);
    }
    if (left != kNone) tell(left);
    if (thread % 32 == 0) hopper::wait_for_store_reads<0>();
  }
};

}  // namespace nibble::cuda::grouped
