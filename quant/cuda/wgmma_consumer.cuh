// A consumer warpgroup of the wgmma kernel (int_gemm_wgmma.cu): it multiplies the stages that the
// producers fill, rescales the sums, joins the segments of a tile in order, and writes results.
#pragma once

#include "quant/cuda/wgmma_tile.cuh"

namespace nibble::cuda::wg {

// What a consumer does with the sums of an item.
template <class S>
struct Consumer {
  const Problem& p;
  const CUtensorMap& map_c;
  const Output& out;
  std::uint8_t* shared;  // at `base`
  std::uint32_t base;    // of shared memory
  std::uint32_t group;   // 0, 1: rows 64 · group … of a tile
  std::uint32_t row;     // the thread's first within the tile
  std::uint32_t thread;  // within the warpgroup
  Accumulators<S> acc;
  std::uint32_t tile_parity = 0;

  __device__ bool leads() const { return thread == 0; }
  __device__ void sync() const { hopper::sync_threads(1 + group, 128); }

  // The item's share joins those of earlier segments, in order. True when it is the last.
  __device__ bool take_turn(const Item& item) {
    if (p.segments == 1) return true;
    volatile std::uint32_t* const turn = p.turn + item.tile * 2 + group;
    constexpr int kFours = S::kSums / 4;
    float4* const partial = static_cast<float4*>(p.partial) +
                            (std::int64_t{item.tile} * 2 + group) * kFours * 128 + thread;
    if (item.segment > 0) {
      if (leads())
        while (*turn != item.segment) __nanosleep(64);
      __threadfence();
      sync();
#pragma unroll
      for (int i = 0; i < kFours; ++i) {
        const float4 before = __ldcg(partial + i * 128);
        if constexpr (S::kLocal) {
          acc.results[i * 4] = __fadd_rn(before.x, acc.results[i * 4]);
          acc.results[i * 4 + 1] = __fadd_rn(before.y, acc.results[i * 4 + 1]);
          acc.results[i * 4 + 2] = __fadd_rn(before.z, acc.results[i * 4 + 2]);
          acc.results[i * 4 + 3] = __fadd_rn(before.w, acc.results[i * 4 + 3]);
        } else {
          acc.sums[0][i * 4] += __float_as_int(before.x);
          acc.sums[0][i * 4 + 1] += __float_as_int(before.y);
          acc.sums[0][i * 4 + 2] += __float_as_int(before.z);
          acc.sums[0][i * 4 + 3] += __float_as_int(before.w);
        }
      }
    }
    if (item.segment + 1 == p.segments) return true;
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
      if constexpr (S::kLocal)
        __stcg(partial + i * 128, make_float4(acc.results[i * 4], acc.results[i * 4 + 1],
                                              acc.results[i * 4 + 2], acc.results[i * 4 + 3]));
      else
        __stcg(partial + i * 128, make_float4(__int_as_float(acc.sums[0][i * 4]),
                                              __int_as_float(acc.sums[0][i * 4 + 1]),
                                              __int_as_float(acc.sums[0][i * 4 + 2]),
                                              __int_as_float(acc.sums[0][i * 4 + 3])));
    }
    __threadfence();
    sync();
    if (leads()) *turn = item.segment + 1;
    return false;
  }

  __device__ const float* values(std::uint32_t offset) const {
    return reinterpret_cast<const float*>(shared + offset);
  }
  // Results with bias in columns 8j + pair and the next of row `half` of the thread's two.
  __device__ void pair(float (&f)[2], const float (&down)[2], int j, int half) const {
    const std::uint32_t c = j * 8 + thread % 4 * 2;
    Vector<float, 2> across{}, bias{};
    if constexpr (!S::kLocal) across = load_vector<float, 2>(values(S::kAcross) + c);
    if (p.bias) bias = load_vector<float, 2>(values(S::kBias) + c);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int i = j * 4 + half * 2 + e;
      f[e] = S::kLocal ? acc.results[S::kLocal ? i : 0]
                       : scale_whole(__int2float_rn(acc.sums[0][i]), down[half], across.v[e]);
      if (p.bias) f[e] = __fadd_rn(f[e], bias.v[e]);
    }
  }

  // bf16 through shared memory and the copy engine, 64 columns at a time.
  __device__ void write_boxes(const Item& item, const float (&down)[2]) const {
    if (item.row >= p.m) return;  // a cluster's second tile may lie outside
#pragma unroll
    for (int box = 0; box < static_cast<int>(S::kCols / kBoxCols); ++box) {
      const std::uint32_t col = item.col + box * kBoxCols;
      if (col >= p.n) break;
      const std::uint32_t to = base + S::kOut + (group * S::kBoxes + box % S::kBoxes) * S::kBox;
      if (leads()) hopper::wait_for_store_reads<S::kBoxes - 1>();
      sync();
      const std::uint32_t lane = thread % 32, warp = thread / 32;
      const std::uint32_t r = warp * 16 + lane / 8 % 2 * 8 + lane % 8;
#pragma unroll
      for (int four = 0; four < 4; ++four) {  // 16 columns
        std::uint32_t words[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          float f[2];
          pair(f, down, box * 8 + four * 2 + k / 2, k % 2);
          asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(words[k]) : "f"(f[1]), "f"(f[0]));
        }
        const std::uint32_t chunk = four * 2 + lane / 16;
        hopper::store_matrices(to + r * 128 + (chunk ^ (r % 8)) * 16, words);
      }
      hopper::fence_for_copy_engine();
      sync();
      if (leads()) {
        hopper::store_tile(map_c, to, col, item.row + group * 64);
        hopper::commit_stores();
      }
    }
  }
  // Any result, 32 columns at a time: through shared memory, so that rows leave in whole runs and
  // the code stays small.
  __device__ void write_runs(const Item& item, const float (&down)[2]) const {
    auto* const box = reinterpret_cast<float*>(shared + S::kOut + group * S::kBoxes * S::kBox);
#pragma unroll
    for (int first = 0; first < static_cast<int>(S::kCols); first += 32) {
      sync();  // the box has been read
#pragma unroll
      for (int four = 0; four < 4; ++four)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float f[2];
          pair(f, down, first / 8 + four, half);
          const std::uint32_t r = row - group * 64 + half * 8, chunk = four * 2 + thread % 4 / 2;
          store_vector(box + r * 32 + (chunk ^ (r % 8)) * 4 + thread % 2 * 2,
                       Vector<float, 2>{{f[0], f[1]}});
        }
      sync();
#pragma unroll 1
      for (std::uint32_t i = thread; i < 64 * 8; i += 128) {
        const std::uint32_t r = i / 8, chunk = i % 8;
        const auto f = load_vector<float, 4>(box + r * 32 + (chunk ^ (r % 8)) * 4);
        out.store4(f.v, item.row + group * 64 + r, item.col + first + chunk * 4);
      }
    }
  }
  // The last of an item: its results, if no segment is to follow.
  __device__ void end(const Item& item) {
    const bool complete = take_turn(item);
    hopper::wait(base + S::kTileFull, tile_parity);
    tile_parity ^= 1;
    if (complete) {
      float down[2] = {};
      if constexpr (!S::kLocal) {
        down[0] = values(S::kDown)[row];
        down[1] = values(S::kDown)[row + 8];
      }
      if (p.boxes)
        write_boxes(item, down);
      else
        write_runs(item, down);
    }
    __syncwarp();
    if (thread % 32 == 0) hopper::arrive(base + S::kTileEmpty);
  }

  // The stage's memory may be refilled, as far as this warp is concerned.
  __device__ void release(std::uint32_t stage) const {
    __syncwarp();
    if (thread % 32 < kCluster) hopper::arrive_at(base + S::kEmpty + stage * 8, thread % 32);
  }

  __device__ const float* scales(std::uint32_t stage) const {
    return values(S::kScales + stage * S::kStageScales);
  }
  __device__ void await(const Ring<S::kStages>& ring) const {
    hopper::wait(base + S::kFull + ring.stage * 8, ring.parity);
  }
  __device__ void multiply(std::int32_t (&to)[S::kSums], std::uint32_t stage, bool fresh) {
    const std::uint32_t from = base + stage * S::kStage;
    acc.multiply(to, from + group * 64 * kStep, from + S::kStageA, fresh);
  }

  // One contraction block after the other; within it products follow each other.
  __device__ void consume(std::uint32_t first, std::uint32_t stride, std::uint32_t rank) {
    Ring<S::kStages> ring;
    for (std::uint32_t index = first; index < p.items(); index += stride) {
      const Item item(p, index, rank, S::kCols);
      acc.clear();
      std::uint32_t left = p.block_steps;  // of the current contraction block
      std::uint32_t before = 0;            // the stage that the product under way reads
      for (std::uint32_t step = 0; step < item.steps; ++step) {
        const std::uint32_t stage = ring.stage;
        await(ring);
        multiply(acc.sums[0], stage, S::kLocal ? left == p.block_steps : step == 0);
        ring.advance();
        if constexpr (S::kLocal) {
          hopper::wgmma_wait<0>();
          hopper::keep(acc.sums[0]);
          if (--left == 0 || step + 1 == item.steps) {
            left = p.block_steps;
            acc.rescale(acc.sums[0], acc.load(scales(stage), row), scales(stage),
                        [&] { release(stage); });
          } else {
            release(stage);
          }
        } else {
          if (step > 0) {
            hopper::wgmma_wait<1>();
            release(before);
          }
          before = stage;
        }
      }
      if constexpr (!S::kLocal) {
        hopper::wgmma_wait<0>();
        hopper::keep(acc.sums[0]);
        release(before);
      }
      end(item);
    }
    if (leads()) hopper::wait_for_store_reads<0>();
  }

  // A step is a contraction block: the next one's products, also of the next item, are enqueued
  // before this one's sums are rescaled.
  struct Walk {
    Item item;
    std::uint32_t index, step;
    Ring<S::kStages> now, next;
    typename Accumulators<S>::StepScales scales[2];
  };
  __device__ bool is_last(const Walk& w, std::uint32_t stride) const {
    return w.step + 1 == w.item.steps && w.index + stride >= p.items();
  }
  // The sums of a step are there.
  template <int kBuffer>
  __device__ void absorb(Walk& w, std::uint32_t stride, std::uint32_t rank) {
    hopper::keep(acc.sums[kBuffer]);
    acc.rescale(acc.sums[kBuffer], w.scales[kBuffer], scales(w.now.stage),
                [&] { release(w.now.stage); });
    w.now.advance();
    if (++w.step < w.item.steps) return;
    end(w.item);
    acc.clear();
    w.index += stride;
    w.item = Item(p, min(w.index, p.items() - 1), rank, S::kCols);
    w.step = 0;
  }
  template <int kBuffer>
  __device__ void advance(Walk& w, std::uint32_t stride, std::uint32_t rank) {
    await(w.next);
    multiply(acc.sums[1 - kBuffer], w.next.stage, true);
    w.scales[1 - kBuffer] = acc.load(scales(w.next.stage), row);
    w.next.advance();
    hopper::wgmma_wait<1>();
    absorb<kBuffer>(w, stride, rank);
  }
  template <int kBuffer>
  __device__ void finish(Walk& w, std::uint32_t stride, std::uint32_t rank) {
    hopper::wgmma_wait<0>();
    absorb<kBuffer>(w, stride, rank);
  }
  __device__ void consume_ahead(std::uint32_t first, std::uint32_t stride, std::uint32_t rank) {
    Walk w{Item(p, first, rank, S::kCols), first, 0, {}, {}, {}};
    acc.clear();
    await(w.next);
    multiply(acc.sums[0], w.next.stage, true);
    w.scales[0] = acc.load(scales(w.next.stage), row);
    w.next.advance();
    // No branch may surround a product here, or the compiler makes all of them wait.
    while (true) {
      if (is_last(w, stride)) {
        finish<0>(w, stride, rank);
        break;
      }
      advance<0>(w, stride, rank);
      if (is_last(w, stride)) {
        finish<1>(w, stride, rank);
        break;
      }
      advance<1>(w, stride, rank);
    }
    if (leads()) hopper::wait_for_store_reads<0>();
  }
};

}  // namespace nibble::cuda::wg
