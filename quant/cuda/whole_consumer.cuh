// A consumer warpgroup of int_gemm_whole.cu: it multiplies the stages that the producers fill,
// joins the parts of a split tile, and writes results.
#pragma once

#include "quant/cuda/whole_tile.cuh"
#include "tensor/cuda/elementwise.cuh"
#include "tensor/cuda/fast_math.cuh"

namespace nibble::cuda::whole {

template <class S>
struct Consumer {
  const Problem& p;
  const CUtensorMap& map_c;
  const CUtensorMap& map_kept;
  const Output& out;
  std::uint8_t* shared;  // at `base`
  std::uint32_t base;    // of shared memory
  std::uint32_t rank;    // in the cluster
  std::uint32_t group;   // 0, 1: rows 64 · group … of a tile
  std::uint32_t row;     // the thread's first within the tile
  std::uint32_t thread;  // within the warpgroup
  std::int32_t sums[S::kSums];
  std::uint32_t tile_parity = 0;

  __device__ bool leads() const { return thread == 0; }
  __device__ void sync() const { hopper::sync_threads(1 + group, 128); }

  // The stage's memory may be refilled, as far as this warp is concerned.
  __device__ void release(std::uint32_t stage) const {
    __syncwarp();
    if (thread % 32 < kCluster) hopper::arrive_at(base + S::kEmpty + stage * 8, thread % 32);
  }
  // Enqueues the products of a stage.
  __device__ void multiply(std::uint32_t stage, bool fresh) {
    const std::uint32_t from = base + stage * S::kStage;
    const std::uint64_t a = hopper::swizzled_rows(from + group * 64 * kStep),
                        b = hopper::swizzled_rows(from + S::kStageA);
    hopper::keep(sums);
    hopper::wgmma_fence();
#pragma unroll
    for (int depth = 0; depth < 4; ++depth)
      int8::wgmma(typename S::CodesA{}, typename S::CodesB{}, sums, a + 2 * depth, b + 2 * depth,
                  depth > 0 || !fresh);
    hopper::wgmma_commit();
  }

  __device__ void consume(std::uint32_t worker) {
    Ring<S::kStages> ring;
    StreamKWalk(p.plan, worker)
        .run(
            [&](const TilePart& part) {
              std::uint32_t before = 0;  // the stage that the product under way reads
              for (std::uint32_t step = 0; step < part.steps; ++step) {
                hopper::wait(base + S::kFull + ring.stage * 8, ring.parity);
                multiply(ring.stage, step == 0);
                if (step > 0) {
                  hopper::wgmma_wait<1>();
                  release(before);
                }
                before = ring.stage;
                ring.advance();
              }
              hopper::wgmma_wait<0>();
              hopper::keep(sums);
              release(before);
            },
            [&](const TilePart& part) { leave(part, true); },
            [&](const TilePart& part, bool late) {
              if (part.is_split()) {
                if (!late) leave(part, false);
                join(part, late);
              }
              write(part);
            });
    if (leads()) hopper::wait_for_store_reads<0>();
  }

  // ---- parts of a tile --------------------------------------------------------------------------

  static constexpr int kFours = kSlice / 8;  // int4 of a slice

  __device__ int4* partial(std::uint32_t slot) const {
    constexpr std::int64_t kPart = S::kSums / 4 * 128;
    return p.partial + ((std::int64_t{slot} * kCluster + rank) * 2 + group) * kPart + thread;
  }
  __device__ std::uint32_t* arrived(const TilePart& part) const {
    return p.arrived + (part.slot * kCluster + rank) * 2 + group;
  }
  // The part's sums, for those that end its slices; also for itself when it ends late.
  __device__ void leave(const TilePart& part, bool late) const {
    int4* const to = partial(part.slot + part.part);
#pragma unroll
    for (int slice = 0; slice < static_cast<int>(S::kSlices); ++slice) {
      if (!late && part.owner(slice, S::kSlices) == part.part) continue;
#pragma unroll
      for (int i = slice * kFours; i < (slice + 1) * kFours; ++i)
        __stcg(to + i * 128,
               make_int4(sums[i * 4], sums[i * 4 + 1], sums[i * 4 + 2], sums[i * 4 + 3]));
    }
    sync();
    if (leads()) hopper::add_releasing(arrived(part), 1);
  }
  // Waits for the other parts, whose workers all run at once, and adds them to the slices that this
  // one ends.
  __device__ void join(const TilePart& part, bool late) {
    if (leads()) {
      while (hopper::load_acquiring(arrived(part)) < part.parts) __nanosleep(32);
      atomicInc(arrived(part), 2 * part.parts - 1);  // the last to see them all puts it back to 0
    }
    sync();
#pragma unroll
    for (int slice = 0; slice < static_cast<int>(S::kSlices); ++slice) {
      if (part.owner(slice, S::kSlices) != part.part) continue;
      if (late)
#pragma unroll
        for (int i = slice * kFours * 4; i < (slice + 1) * kFours * 4; ++i) sums[i] = 0;
#pragma unroll 2
      for (std::uint32_t other = late ? 0 : 1; other < part.parts; ++other) {
        const std::uint32_t at = part.part + other;
        const int4* const from = partial(part.slot + (at < part.parts ? at : at - part.parts));
#pragma unroll
        for (int i = slice * kFours; i < (slice + 1) * kFours; ++i) {
          const int4 x = __ldcg(from + i * 128);
          sums[i * 4] += x.x;
          sums[i * 4 + 1] += x.y;
          sums[i * 4 + 2] += x.z;
          sums[i * 4 + 3] += x.w;
        }
      }
    }
  }

  // ---- results ----------------------------------------------------------------------------------

  __device__ const float* values(std::uint32_t offset) const {
    return reinterpret_cast<const float*>(shared + offset);
  }
  __device__ const std::int32_t* counts(std::uint32_t offset) const {
    return reinterpret_cast<const std::int32_t*>(shared + offset);
  }
  // Results with bias in columns 8j + pair and the next of row `half` of the thread's two.
  __device__ void pair(float (&f)[2], const float (&down)[2], int j, int half) const {
    const std::uint32_t c = j * 8 + thread % 4 * 2;
    const auto across = load_vector<float, 2>(values(S::kAcross) + c);
    Vector<float, 2> bias{};
    if (p.bias) bias = load_vector<float, 2>(values(S::kBias) + c);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      f[e] = scale_whole(__int2float_rn(sums[j * 4 + half * 2 + e]), down[half], across.v[e]);
      if (p.bias) f[e] = __fadd_rn(f[e], bias.v[e]);
    }
  }

  // bf16 through shared memory and the copy engine, 64 columns at a time.
  __device__ void write_boxes(const Place& place, const float (&down)[2]) const {
    if (place.row >= p.m) return;  // a cluster's second tile may lie outside
    const std::uint32_t lane = thread % 32, warp = thread / 32;
    const std::uint32_t r = warp * 16 + lane / 8 % 2 * 8 + lane % 8;
    std::uint32_t boxes = 0;
    // The tile before may have ended with the box that this one begins with.
    if (leads()) hopper::wait_for_store_reads<0>();
    const auto begin = [&] {  // the next box, once the copy engine has read it
      if (leads()) hopper::wait_for_store_reads<S::kBoxes - 1>();
      sync();
      return S::kOut + (group * S::kBoxes + boxes++ % S::kBoxes) * S::kBox;
    };
    const auto send = [&](const CUtensorMap& map, std::uint32_t from, std::uint32_t col) {
      hopper::fence_for_copy_engine();
      sync();
      if (leads()) {
        hopper::store_tile(map, base + from, col, place.row + group * 64);
        hopper::commit_stores();
      }
    };
#pragma unroll
    for (int box = 0; box < static_cast<int>(S::kCols / kBoxCols); ++box) {
      const std::uint32_t col = place.col + box * kBoxCols;
      if (col >= p.n) break;
      const std::uint32_t at = begin();
#pragma unroll
      for (int four = 0; four < 4; ++four) {  // 16 columns
        std::uint32_t words[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          float f[2];
          pair(f, down, box * 8 + four * 2 + k / 2, k % 2);
          words[k] = bf16_pair(f[0], f[1]);
        }
        const std::uint32_t chunk = four * 2 + lane / 16;
        hopper::store_matrices(base + at + r * 128 + (chunk ^ (r % 8)) * 16, words);
      }
      if constexpr (S::kEnding == Ending::Gelu) {
        std::uint32_t to = at;
        if (p.keeps) {
          send(map_kept, at, col);
          to = begin();
        } else {
          sync();
        }
#pragma unroll 1
        for (std::uint32_t i = thread * 8; i < S::kBox / 2; i += 128 * 8)
          store_vector(
              reinterpret_cast<bfloat16*>(shared + to) + i,
              gelu(load_vector<bfloat16>(reinterpret_cast<const bfloat16*>(shared + at) + i)));
        send(map_c, to, col);
      } else {
        send(map_c, at, col);
      }
    }
  }
  // The bits of the map in tensor/cuda/activation.cu, through the same function.
  template <class T, int N>
  __device__ static Vector<T, N> gelu(const Vector<T, N>& x) {
    return apply_vector<N, T, Gelu, T>(Gelu{}, std::make_tuple(x));
  }
  struct Gelu {
    static constexpr float kFastBound = fast::kGeluBound;
    __device__ float operator()(float v) const { return scalar::gelu_tanh(v); }
    __device__ static float fast(float v) { return nibble::cuda::fast::gelu_tanh(v); }
  };

  // The box holds sums: what zero points add to them, then scales and bias. Terms are exact modulo
  // 2^32 where the result is; else they are added as the CPU adds them. r, c: in the tile.
  __device__ void finish(float (&f)[4], std::uint32_t r, std::uint32_t c) const {
    const float za = p.a.zeros ? values(S::kDown)[kRows + r] : 0.0f;
    const std::int32_t sum_a = p.sums_a ? counts(S::kDown)[2 * kRows + r] : 0;
    Vector<float, 4> zb{}, bias{};
    Vector<std::int32_t, 4> sum_b{};
    if (p.b.zeros) zb = load_vector<float, 4>(values(S::kAcross) + S::kCols + c);
    if (p.sums_b) sum_b = load_vector<std::int32_t, 4>(counts(S::kAcross) + 2 * S::kCols + c);
    if (p.bias) bias = load_vector<float, 4>(values(S::kBias) + c);
    const auto across = load_vector<float, 4>(values(S::kAcross) + c);
    constexpr float kMost = 0x7fff0000;  // below 2^31 by more than the roundings here
    const float limit = kMost / ((p.largest_a + fabsf(za)) * static_cast<float>(p.k)) - p.largest_b;
    const std::int32_t code = __float2int_rn(za);
    const auto rest = static_cast<std::uint32_t>(sum_a) + static_cast<std::uint32_t>(code) * p.k;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const std::int32_t sum = __float_as_int(f[e]);
      if (fabsf(zb[e]) <= limit)
        f[e] = __int2float_rn(static_cast<std::int32_t>(
            static_cast<std::uint32_t>(sum) + static_cast<std::uint32_t>(code * sum_b[e]) +
            static_cast<std::uint32_t>(__float2int_rn(zb[e])) * rest));
      else
        f[e] = with_zeros(sum, za, zb[e], sum_a, sum_b[e], p.k);
      f[e] = scale_whole(f[e], values(S::kDown)[r], across.v[e]);
      if (p.bias) f[e] = __fadd_rn(f[e], bias.v[e]);
    }
  }
  // Any result, a slice at a time: through shared memory, so that rows leave in whole runs and the
  // code stays small.
  __device__ void write_runs(const TilePart& part, const Place& place,
                             const float (&down)[2]) const {
    auto* const box = reinterpret_cast<float*>(shared + S::kOut + group * S::kBoxes * S::kBox);
    if (leads()) hopper::wait_for_store_reads<0>();  // of a whole tile before
#pragma unroll
    for (int slice = 0; slice < static_cast<int>(S::kSlices); ++slice) {
      if (part.owner(slice, S::kSlices) != part.part) continue;
      const int first = slice * static_cast<int>(kSlice);
      sync();  // the box has been read
#pragma unroll
      for (int four = 0; four < 4; ++four)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int j = first / 8 + four;
          float f[2];
          if constexpr (S::kZeros) {
            f[0] = __int_as_float(sums[j * 4 + half * 2]);
            f[1] = __int_as_float(sums[j * 4 + half * 2 + 1]);
          } else {
            pair(f, down, j, half);
          }
          const std::uint32_t r = row - group * 64 + half * 8, chunk = four * 2 + thread % 4 / 2;
          store_vector(box + r * 32 + (chunk ^ (r % 8)) * 4 + thread % 2 * 2,
                       Vector<float, 2>{{f[0], f[1]}});
        }
      sync();
#pragma unroll 1
      for (std::uint32_t i = thread; i < 64 * 8; i += 128) {
        const std::uint32_t r = i / 8, chunk = i % 8, c = first + chunk * 4;
        auto f = load_vector<float, 4>(box + r * 32 + (chunk ^ (r % 8)) * 4);
        if constexpr (S::kZeros) finish(f.v, group * 64 + r, c);
        if constexpr (S::kEnding == Ending::Gelu) {
          if (out.is_bf16)
#pragma unroll
            for (float& y : f.v) y = to_float(from_float<bfloat16>(y));
          if (p.keeps) p.kept.store4(f.v, place.row + group * 64 + r, place.col + c);
          f = gelu(f);
        }
        out.store4(f.v, place.row + group * 64 + r, place.col + c);
      }
    }
  }

  __device__ void write(const TilePart& part) {
    hopper::wait(base + S::kTileFull, tile_parity);
    tile_parity ^= 1;
    const Place place(p, part.tile, rank, S::kCols);
    const float down[2] = {values(S::kDown)[row], values(S::kDown)[row + 8]};
    bool boxes = false;
    if constexpr (!S::kZeros) boxes = p.boxes && part.parts == 1;
    if (boxes)
      write_boxes(place, down);
    else
      write_runs(part, place, down);
    hopper::arrive(base + S::kTileEmpty);  // each: racecheck does not see one speak for a warp
  }
};

}  // namespace nibble::cuda::whole
