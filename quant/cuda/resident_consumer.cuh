// A consumer warpgroup of the resident kernel (int_gemm_resident.cu): it multiplies the tiles whose
// turn it is, scales their sums and writes results.
#pragma once

#include "quant/cuda/resident_panel.cuh"

namespace nibble::cuda::resident {

// Warpgroups take tiles in turn: while one multiplies, the others scale and write.
struct Consumer {
  const Problem& p;
  const CUtensorMap& map_c;
  const Output& out;
  std::uint8_t* shared;  // at `base`
  std::uint32_t base;    // of shared memory
  std::uint32_t group;
  std::uint32_t thread;  // within the warpgroup
  std::int32_t sums[kSums];

  __device__ std::uint32_t lane() const { return thread % 32; }
  __device__ std::uint32_t warp() const { return thread / 32; }
  __device__ float scale_of_row(std::uint32_t row) const {
    return __ldg(p.down + p.down_rows.of(min(row, p.m - 1)));
  }

  // For each pair of the panel's columns: two scales, two biases. No bias is −0, which leaves every
  // sum as it is.
  __device__ void load_values(const Item& item) const {
    hopper::sync_threads(kAll, kConsumers);  // nobody reads the last panel's any more
    const std::uint32_t pair = group * 128 + thread;
    if (pair < kCols / 2) {
      const std::uint32_t c0 = min(item.col + pair * 2, p.n - 1),
                          c1 = min(item.col + pair * 2 + 1, p.n - 1);
      store_vector(
          reinterpret_cast<float*>(shared) + pair * 4,
          Vector<float, 4>{{p.across.at(c0, 0), p.across.at(c1, 0), p.bias ? p.bias.at(c0) : -0.0f,
                            p.bias ? p.bias.at(c1) : -0.0f}});
    }
    hopper::sync_threads(kAll, kConsumers);
  }
  // Those of columns 8j + 2 · (thread % 4) and the next.
  __device__ Vector<float, 4> values(int j) const {
    return load_vector<float, 4>(reinterpret_cast<const float*>(shared) +
                                 (static_cast<std::uint32_t>(j) * 4 + thread % 4) * 4);
  }
  // Results in these columns of the thread's two rows.
  __device__ void results(float (&f)[4], const Vector<float, 4>& v, const float (&down)[2],
                          int j) const {
#pragma unroll
    for (int e = 0; e < 4; ++e)
      f[e] = __fadd_rn(scale_whole(__int2float_rn(sums[j * 4 + e]), down[e / 2], v[e % 2]),
                       v[2 + e % 2]);
  }

  __device__ std::uint32_t room() const { return kOut + (group * 4 + warp()) * kBox; }
  // bf16 through shared memory and the copy engine: each warp sends its 16 rows, 64 columns at a
  // time. Scales are loaded 16 columns ahead: products leave shared memory little time for others.
  __device__ void write_boxes(std::uint32_t col, std::uint32_t row, const float (&down)[2]) const {
    constexpr int kRuns = kCols / 16;
    const std::uint32_t to = base + room(), r = lane() % 16;
    Vector<float, 4> ahead[2] = {values(0), values(1)};
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      const std::uint32_t first = col + run / 4 * kBoxCols;  // column of the box
      if (run % 4 == 0) {
        if (first >= p.n) break;
        if (lane() == 0) hopper::wait_for_store_reads<0>();
        __syncwarp();
      }
      std::uint32_t words[4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float f[4];
        results(f, ahead[half], down, run * 2 + half);
        if (run + 1 < kRuns) ahead[half] = values(run * 2 + 2 + half);
#pragma unroll
        for (int e = 0; e < 2; ++e)
          asm("cvt.rn.bf16x2.f32 %0, %1, %2;"
              : "=r"(words[half * 2 + e])
              : "f"(f[e * 2 + 1]), "f"(f[e * 2]));
      }
      const std::uint32_t chunk = run % 4 * 2 + lane() / 16;
      hopper::store_matrices(to + r * 128 + (chunk ^ (r % 8)) * 16, words);
      if (run % 4 == 3) {
        hopper::fence_for_copy_engine();
        __syncwarp();
        if (lane() == 0) {
          hopper::store_tile(map_c, to, first, row);
          hopper::commit_stores();
        }
      }
    }
  }
  // Any result, 32 columns at a time through the same room, so that rows leave in whole runs.
  __device__ void write_runs(std::uint32_t col, std::uint32_t row, const float (&down)[2]) const {
    constexpr std::uint32_t kRun = 32;
    auto* const from = reinterpret_cast<float*>(shared + room());
#pragma unroll
    for (std::uint32_t first = 0; first < kCols; first += kRun) {
      __syncwarp();  // the room has been read
#pragma unroll
      for (std::uint32_t i = 0; i < kRun / 8; ++i) {
        const int j = static_cast<int>(first / 8 + i);
        float f[4];
        results(f, values(j), down, j);
#pragma unroll
        for (std::uint32_t half = 0; half < 2; ++half) {
          const std::uint32_t r = lane() / 4 + half * 8, chunk = i * 2 + lane() % 4 / 2;
          store_vector(from + r * kRun + (chunk ^ (r % 8)) * 4 + lane() % 2 * 2,
                       Vector<float, 2>{{f[half * 2], f[half * 2 + 1]}});
        }
      }
      __syncwarp();
#pragma unroll 1
      for (std::uint32_t i = 0; i < kBoxRows * kRun / 4; i += 32) {
        const std::uint32_t r = (i + lane()) / 8, chunk = lane() % 8;
        const auto f = load_vector<float, 4>(from + r * kRun + (chunk ^ (r % 8)) * 4);
        out.store4(f.v, row + r, col + first + chunk * 4);
      }
    }
  }

  // The oldest stage's memory may be refilled, as far as this warp is concerned.
  __device__ void release(Ring& oldest) const {
    __syncwarp();
    if (lane() == 0) hopper::arrive(base + kEmpty + oldest.stage * 8);
    oldest.advance(p);
  }
  // Enqueues the products of a tile's step.
  __device__ void multiply(std::uint32_t stage, std::uint32_t step) {
    const std::uint32_t panel = base + kPanel;
    const std::uint64_t a = hopper::swizzled_rows(panel + p.steps * kPanelStep + stage * kStage),
                        b = hopper::swizzled_rows(panel + step * kPanelStep);
    hopper::keep(sums);
    hopper::wgmma_fence();
#pragma unroll
    for (int depth = 0; depth < 4; ++depth)
      int8::wgmma(sums, a + 2 * depth, b + 2 * depth, depth > 0 || step > 0);
    hopper::wgmma_commit();
  }
  // The sums of the tile whose stages begin at `ring`. new_panel: the tile is this group's first
  // beside it; is_last: of the block.
  __device__ void sum(Ring& ring, bool new_panel, std::uint32_t panel_parity, bool is_last) {
    Ring oldest = ring;  // that products still read
    // Before waiting for stages: a barrier two phases back looks like one that is over.
    hopper::sync_threads(kTurn + group, kTurnThreads);
    for (std::uint32_t step = 0; step < p.steps; ++step) {
      if (new_panel) hopper::wait(base + kPanelFull + step * 8, panel_parity);
      hopper::wait(base + kFull + ring.stage * 8, ring.parity);
      multiply(ring.stage, step);
      ring.advance(p);
      // Two steps ahead of the tensor cores, so that they never wait for this.
      if (step >= 2) {
        hopper::wgmma_wait<2>();
        release(oldest);
      }
    }
    // What is left of them keeps the tensor cores busy until the next warpgroup's begin.
    if (!is_last) arrive_threads(kTurn + (group + 1) % kGroups, kTurnThreads);
    hopper::wgmma_wait<1>();
    if (p.steps > 1) release(oldest);
    hopper::wgmma_wait<0>();
    hopper::keep(sums);
    release(oldest);
  }

  __device__ void consume() {
    Ring ring;
    std::uint32_t turn = 0, panel_parity = 0;
    if (group == kGroups - 1) arrive_threads(kTurn, kTurnThreads);
    for (std::uint32_t index = blockIdx.x; index < p.items();
         index += gridDim.x, panel_parity ^= 1) {
      const Item item(p, index);
      load_values(item);
      bool new_panel = true;
      for (std::uint32_t tile = item.first; tile < item.end; ++tile) {
        const bool mine = turn == group;
        turn = turn + 1 == kGroups ? 0 : turn + 1;
        if (!mine) {
          ring.advance(p, p.steps);
          continue;
        }
        const std::uint32_t row = tile * kRows + warp() * kBoxRows, own = row + lane() / 4;
        const float down[2] = {scale_of_row(own), scale_of_row(own + 8)};
        sum(ring, new_panel, panel_parity, tile + 1 == item.end && index + gridDim.x >= p.items());
        new_panel = false;
        if (p.boxes)
          write_boxes(item.col, row, down);
        else
          write_runs(item.col, row, down);
      }
      __syncwarp();
      if (lane() == 0) hopper::arrive(base + kPanelEmpty);
    }
    if (lane() == 0) hopper::wait_for_store_reads<0>();
  }
};

}  // namespace nibble::cuda::resident
