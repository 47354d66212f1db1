// Attention forward in f32: a tile of queries of one head, with the tiles of keys and then values
// passing through one shared-memory buffer (online softmax). All products are fused multiply-adds
// in f32, so the bound is the 2 · 4 · T · S · D operations' share of the FMA units; the bf16 kernel
// (attention_bf16.cu) is the fast one.
#include "tensor/cuda/attention_fma.cuh"

namespace nibble::cuda {
namespace {

template <class C>
constexpr int kForwardShared = 2 * C::kOperandBytes + C::kScoreBytes + 3 * C::kTile * 4;

template <class C>
__global__ void __launch_bounds__(C::kThreads)
    attention_f32(const __grid_constant__ ForwardArguments<float> a) {
  constexpr int kTile = C::kTile;
  extern __shared__ __align__(16) char shared[];
  float* const queries = reinterpret_cast<float*>(shared);
  float* const operand = queries + C::kOperandBytes / 4;  // keys, then values
  float* const scores = operand + C::kOperandBytes / 4;
  float* const max = scores + C::kScoreBytes / 4;
  float* const sum = max + kTile;
  float* const shrink = sum + kTile;
  const AttentionShape& shape = a.shape;
  const int blocks = (shape.queries + kTile - 1) / kTile;
  const int head = static_cast<int>(blockIdx.x) / blocks;
  const int t0 = (blocks - 1 - static_cast<int>(blockIdx.x) % blocks) * kTile;
  const int b = head / shape.heads, h = head % shape.heads, key_head = shape.key_head(h);
  const DropoutDraws draws(a.dropout, shape, b, h);

  load_operand<C>(queries, a.q.row(b, h, t0), a.q.row_stride, shape.queries - t0, shape.width,
                  shape.scale);
  if (threadIdx.x < kTile) {
    max[threadIdx.x] = -INFINITY;
    sum[threadIdx.x] = 0;
  }
  OutputTile<C> out;
  out.clear();
  const int seen = shape.seen(::min(t0 + kTile, shape.queries) - 1);
  for (int s0 = 0; s0 < seen; s0 += kTile) {
    __syncthreads();  // the values and probabilities of the last tile have been read
    load_operand<C>(operand, a.k.row(b, key_head, s0), a.k.row_stride, shape.keys - s0,
                    shape.width);
    __syncthreads();
    ScoreTile<C> s;
    s.product(queries, operand);
    s.each([&](float x, int row, int column) {
      scores[row * C::kScoreStride + column] = s0 + column < shape.seen(t0 + row) ? x : -INFINITY;
    });
    __syncthreads();
    load_operand<C>(operand, a.v.row(b, key_head, s0), a.v.row_stride, shape.keys - s0,
                    shape.width);
    {  // kLanes threads of one warp turn a row of scores into probabilities
      const int row = static_cast<int>(threadIdx.x) / C::kLanes;
      const int first = static_cast<int>(threadIdx.x) % C::kLanes * C::kRun;
      float* const x = scores + row * C::kScoreStride + first;
      const float old = max[row];
      float m = old;
#pragma unroll
      for (int i = 0; i < C::kRun; ++i) m = max_keeping_nan(m, x[i]);
#pragma unroll
      for (int lane = C::kLanes / 2; lane > 0; lane /= 2)
        m = max_keeping_nan(m, __shfl_xor_sync(kFullMask, m, lane));
      // While only -inf was seen, any finite reference gives the right sum, 0.
      const float reference = m == -INFINITY ? 0 : m;
      float total = 0;
#pragma unroll
      for (int i = 0; i < C::kRun; ++i) {
        x[i] = scalar::exp(x[i] - reference);
        total += x[i];
      }
#pragma unroll
      for (int lane = C::kLanes / 2; lane > 0; lane /= 2)
        total += __shfl_xor_sync(kFullMask, total, lane);
      if (a.dropout.threshold > 0) {
        constexpr int kBits = C::kRun < 8 ? 8 : C::kRun;
        const std::uint64_t kept = draws.bits<kBits>(t0 + row, s0 + first);
#pragma unroll
        for (int i = 0; i < C::kRun; ++i) x[i] *= kept >> i & 1u ? a.dropout.scale : 0.0f;
      }
      __syncwarp();  // the row's other lanes have read its old maximum
      if (first == 0) {
        shrink[row] = scalar::exp(old - reference);
        max[row] = m;
        sum[row] = fmaf(sum[row], shrink[row], total);
      }
    }
    __syncthreads();
    out.each([&](float& x, int row, int) { x *= shrink[row]; });
    out.add_product(scores, operand);
  }
  __syncthreads();  // also when no key is seen

  out.store(a.out.row(b, h, t0), a.out.row_stride, shape.queries - t0, shape.width,
            [&](int row) { return sum[row] == 0 ? 0.0f : 1.0f / sum[row]; });
  const int row = static_cast<int>(threadIdx.x);
  if (row < kTile && t0 + row < shape.queries)
    a.lse[static_cast<std::int64_t>(head) * shape.queries + t0 + row] = max[row] + logf(sum[row]);
}

template <class C>
void launch_forward(const ForwardArguments<float>& a) {
  launch_tiles(attention_f32<C>,
               ceil_div(a.shape.queries, C::kTile) * a.shape.batch * a.shape.heads, C::kThreads,
               kForwardShared<C>, a);
}

}  // namespace

void launch_attention(const ForwardArguments<float>& a) {
  if (a.shape.width <= 64)
    launch_forward<FmaTiling64>(a);
  else if (a.shape.width <= 128)
    launch_forward<FmaTiling128>(a);
  else
    launch_forward<FmaTiling256>(a);
}

}  // namespace nibble::cuda
