// Attention forward in bf16 of heads wider than attention_wgmma.cu takes, or without keys: one
// block computes a tile of queries of one head, streaming the keys and values past it through two
// shared-memory stages (online softmax, after FlashAttention-2, Dao 2023). Scores and sums are f32;
// probabilities are rounded to bf16 for the second product. A query head reads its keys and values
// once a tile of queries, mostly from L2. Roofline: 4·T·S·D operations a head (half of that causal)
// on mma.sync.
#include "tensor/cuda/attention_dropout.cuh"
#include "tensor/cuda/attention_softmax.cuh"

namespace nibble::cuda {
namespace {

template <int kWidth_, int kRowTiles_, int kWarps_, int kKeys_, int kBlocks_>
struct Tiling {
  static constexpr int kWidth = kWidth_, kRowTiles = kRowTiles_, kWarps = kWarps_, kKeys = kKeys_;
  static constexpr int kBlocks = kBlocks_;  // to a multiprocessor
  static constexpr int kThreads = 32 * kWarps, kWarpRows = 16 * kRowTiles;
  static constexpr int kQueries = kWarpRows * kWarps;
  static constexpr int kQueryBytes = kQueries * kWidth * 2, kKeyBytes = kKeys * kWidth * 2;
  static constexpr int kShared = kQueryBytes + 4 * kKeyBytes;
};
using Tiling256 = Tiling<256, 1, 4, 32, 2>;

template <class C, bool kDropout>
__global__ void __launch_bounds__(C::kThreads, C::kBlocks)
    attention_bf16(const __grid_constant__ ForwardArguments<bfloat16> a) {
  constexpr int kWidth = C::kWidth, kRowTiles = C::kRowTiles, kKeys = C::kKeys;
  extern __shared__ __align__(1024) char shared[];
  const AttentionShape& shape = a.shape;
  // Neighbouring blocks share a head's keys in L2; under a causal mask the longest go first.
  const int blocks = (shape.queries + C::kQueries - 1) / C::kQueries;
  const int head = static_cast<int>(blockIdx.x) / blocks;
  const int t0 = (blocks - 1 - static_cast<int>(blockIdx.x) % blocks) * C::kQueries;
  const int b = head / shape.heads, h = head % shape.heads, key_head = shape.key_head(h);
  const int warp = static_cast<int>(threadIdx.x / kWarp);
  const int first_row = t0 + warp * C::kWarpRows;

  const std::uint32_t queries = shared_address(shared), stages = queries + C::kQueryBytes;
  const int seen = shape.seen(::min(t0 + C::kQueries, shape.queries) - 1);
  const int steps = seen > 0 ? (seen + kKeys - 1) / kKeys : 0;
  const auto start_copy = [&](int step) {
    const int s0 = step * kKeys;
    const std::uint32_t to = stages + static_cast<std::uint32_t>(step % 2 * 2 * C::kKeyBytes);
    copy_tile<kKeys, kWidth, C::kThreads>(to, a.k.row(b, key_head, s0), a.k.row_stride,
                                          shape.keys - s0, shape.width);
    copy_tile<kKeys, kWidth, C::kThreads>(to + C::kKeyBytes, a.v.row(b, key_head, s0),
                                          a.v.row_stride, shape.keys - s0, shape.width);
  };
  copy_tile<C::kQueries, kWidth, C::kThreads>(queries, a.q.row(b, h, t0), a.q.row_stride,
                                              shape.queries - t0, shape.width);
  commit_copies();
  if (steps > 0) start_copy(0);
  commit_copies();

  // The running maximum is of unscaled scores: a negative scale moves its sign into the queries.
  const float scale = fabsf(shape.scale) * 1.44269504f;
  const LeftRows<kRowTiles, kWidth> left(
      queries + static_cast<std::uint32_t>(warp * C::kWarpRows * kWidth * 2),
      shape.scale < 0 ? 0x80008000u : 0u);
  wait_for_copies<1>();
  __syncthreads();
  Accumulators<kRowTiles, kWidth> out;
  out.clear();
  OnlineSoftmax<kRowTiles> softmax;
  const DropoutDraws draws(a.dropout, shape, b, h);
  const int warp_seen = shape.seen(first_row + C::kWarpRows - 1);

  for (int step = 0; step < steps; ++step) {
    wait_for_copies<0>();
    __syncthreads();  // the stage is filled, and the other one is no longer read
    if (step + 1 < steps) start_copy(step + 1);
    commit_copies();
    const int s0 = step * kKeys;
    if (s0 >= warp_seen) continue;
    const std::uint32_t tile = stages + static_cast<std::uint32_t>(step % 2 * 2 * C::kKeyBytes);
    Accumulators<kRowTiles, kKeys> scores;
    score(scores, left, lane_in_columns<kWidth>(tile));
    if (s0 + kKeys > shape.seen(first_row))
      scores.each([&](float& x, int row, int column) {
        if (s0 + column >= shape.seen(first_row + row)) x = -INFINITY;
      });
    softmax.update(scores, scale);
    softmax.rescale(out);
    if constexpr (kDropout) {
      KeptProbabilities<kRowTiles, kKeys> kept;
      kept.draw_by_rows(draws, first_row, s0);
      kept.apply(scores);
    }
    accumulate<kRowTiles, kWidth, kWidth, kKeys>(out, scores,
                                                 lane_in_rows<kWidth>(tile + C::kKeyBytes));
  }

  softmax.finish();
  softmax.store_lse(a.lse + static_cast<std::int64_t>(head) * shape.queries, first_row,
                    shape.queries, fabsf(shape.scale));
  // A query without keys gives 0. Its warp's queries are no longer needed where they lay.
  const auto factor = [&](int i, int half) {
    const float sum = softmax.sum[i][half];
    return sum == 0 ? 0.0f : a.dropout.scale / sum;
  };
  store_rows(out, factor, shared + warp * C::kWarpRows * kWidth * 2, a.out.row(b, h, first_row),
             a.out.row_stride, shape.queries - first_row, shape.width, a.out_aligned);
}

template <class C>
void launch_forward(const ForwardArguments<bfloat16>& a) {
  const std::int64_t blocks =
      ceil_div(a.shape.queries, C::kQueries) * a.shape.batch * a.shape.heads;
  launch_tiles(a.dropout.active() ? attention_bf16<C, true> : attention_bf16<C, false>, blocks,
               C::kThreads, C::kShared, a);
}

}  // namespace

void launch_attention(const ForwardArguments<bfloat16>& a) {
  if (wgmma_attention_supports(a.shape)) return launch_attention_wgmma(a);
  launch_forward<Tiling256>(a);
}

}  // namespace nibble::cuda
