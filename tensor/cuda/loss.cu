// Cross-entropy over vocabulary chunks. The update reads the logits once (2 or 4 bytes each): a
// thread keeps a running maximum and sum and rescales once in four vectors. The backward reads and
// writes them once, elementwise, in place if asked. Both are bound by memory for bf16; the f32 ones
// spend more on the exponential, which is the CPU's. Rows need not be aligned: an odd vocabulary
// costs a second load of each 16 bytes, which the first-level cache serves.
#include "tensor/cuda/rows.cuh"
#include "tensor/kernels.h"

namespace nibble::cuda {
namespace {

// Targets below 0 are ignored rows here; ops::check_targets reports those below −1.
template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kBlock)
    update_kernel(float* max, float* sum, float* target_logit, const T* logits,
                  const std::int32_t* targets, std::int64_t rows, int cols, std::int64_t begin) {
  constexpr int V = kVector<T>, kAtOnce = 4, kStep = Tile::kThreads * V;
  __shared__ float scratch[2][Tile::kBlockWarps];
  const std::int64_t row = Tile::row();
  const int n = row < rows ? cols : 0;
  const T* from = logits + row * cols;
  const T none = from_float<T>(-INFINITY);
  ExpSum<T> total;
  for (std::int64_t first = Tile::thread() * V; first < n; first += kAtOnce * kStep) {
    Vector<T, V> loaded[kAtOnce];
    Vector<float, V> x[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const std::int64_t at = first + j * kStep;
#pragma unroll
      for (int e = 0; e < V; ++e) loaded[j][e] = none;
      if (at < n) loaded[j] = load_row_part<T, Tile>(from, static_cast<int>(at), n, none);
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) x[j] = widened<T>(loaded[j]);
    total.add(x);
  }
  total.template reduce<Tile>(scratch[0], scratch[1]);
  if (n == 0 || Tile::thread() != 0) return;
  const float old = max[row], m = max_or_nan(old, total.max);
  const float at = ExpSum<T>::reference(m);
  // The running values are f32 and few: they get the exact exponential.
  sum[row] = fmaf(sum[row], scalar::exp(old - at), total.sum * scalar::exp(total.max - at));
  max[row] = m;
  const std::int64_t column = targets[row] - begin;
  if (targets[row] >= 0 && column >= 0 && column < n) target_logit[row] = to_float(from[column]);
}

struct BackwardInputs {
  const std::int32_t* targets;
  const float* lse;
  const void* scale;
  bool scale_is_f32;
  std::int64_t begin;
  std::int64_t rows, cols;

  __device__ float factor() const {
    return scale_is_f32 ? *static_cast<const float*>(scale)
                        : to_float(*static_cast<const bfloat16*>(scale));
  }
};

template <class T>
struct RowGradient {
  float lse = 0, factor = 0;
  std::int64_t column = -1;  // of the target in this chunk, maybe outside it
  bool ignored = true;

  __device__ RowGradient(const BackwardInputs& in, std::int64_t row)
      : lse(in.lse[row]), factor(in.factor()) {
    const std::int32_t target = in.targets[row];
    ignored = target < 0;
    column = ignored ? -1 : target - in.begin;
  }
  __device__ float operator()(float x, bool is_target) const {
    const float p = row_exp<T>(x - lse);
    return ignored ? 0.0f : (is_target ? p - 1.0f : p) * factor;
  }
};

constexpr int kVectorsOfThread = 2;

// The chunk as one array: V elements at once where both tensors are aligned, for rows may start
// anywhere. I counts elements.
template <int V, class T, class I>
__global__ void __launch_bounds__(256)
    gradient_kernel(T* dlogits, const T* logits, BackwardInputs in) {
  const auto n = static_cast<I>(in.rows * in.cols), cols = static_cast<I>(in.cols);
  const I first = (static_cast<I>(blockIdx.x) * (256 * kVectorsOfThread) + threadIdx.x) * V;
  Vector<T, V> x[kVectorsOfThread];
#pragma unroll
  for (int k = 0; k < kVectorsOfThread; ++k)
    if (const I i = first + k * 256 * V; i + V <= n) x[k] = load_vector<T, V>(logits + i);
#pragma unroll
  for (int k = 0; k < kVectorsOfThread; ++k) {
    const I i = first + k * 256 * V;
    if (i >= n) return;
    I row = i / cols, at = i - row * cols;
    RowGradient<T> gradient(in, row);
    if (V > 1 && at + V <= cols) {
      const std::int64_t ahead = gradient.column - at;
      const int target = ahead >= 0 && ahead < V ? static_cast<int>(ahead) : -1;
      Vector<float, kVector<T>> y;
#pragma unroll
      for (int e = 0; e < V; ++e) y[e] = gradient(to_float(x[k][e]), e == target);
      *reinterpret_cast<Vector<T, kVector<T>>*>(dlogits + i) = narrowed<T>(y);
      continue;
    }
    for (I j = i; j < n && j < i + V; ++j, ++at) {  // one element, or a vector past a row's end
      if (at == cols) {
        at = 0;
        gradient = RowGradient<T>(in, ++row);
      }
      dlogits[j] = from_float<T>(gradient(to_float(logits[j]), at == gradient.column));
    }
  }
}

template <int V, class T, class I>
void launch_gradient(T* dlogits, const T* logits, const BackwardInputs& in) {
  const std::int64_t blocks = ceil_div(in.rows * in.cols, 256 * kVectorsOfThread * V);
  launch(gradient_kernel<V, T, I>, static_cast<unsigned>(blocks), 256, 0, dlogits, logits, in);
}

}  // namespace

void cross_entropy_update(Tensor& max, Tensor& sum, Tensor& target_logit, const Tensor& logits,
                          const Tensor& targets, std::int64_t begin) {
  const int cols = row_length("cross_entropy", logits);
  NIBBLE_CUDA_FLOAT_SWITCH(logits.dtype(), "cross_entropy", T, {
    const auto run = [&](auto tile) {
      using Tile = decltype(tile);
      launch(update_kernel<T, Tile>, Tile::blocks(logits.rows()), Tile::kBlock, 0,
             max.data<float>(), sum.data<float>(), target_logit.data<float>(), logits.data<T>(),
             targets.data<std::int32_t>(), logits.rows(), cols, begin);
    };
    const bool whole = are_whole_rows<T>(cols, logits.data<T>());
    if (cols <= 1024)
      whole ? run(RowTile<1, 0, true>{}) : run(RowTile<1, 0>{});
    else
      whole ? run(RowTile<8, 0, true>{}) : run(RowTile<8, 0>{});
  });
}

void cross_entropy_backward(Tensor& dlogits, const Tensor& logits, const Tensor& targets,
                            const Tensor& lse, const Tensor& scale, std::int64_t begin) {
  constexpr const char* kOp = "cross_entropy";
  NIBBLE_CHECK(scale.dtype() == DType::F32 || scale.dtype() == DType::BF16, kOp,
               "got scale {}, expected f32 or bf16", describe(scale));
  NIBBLE_CUDA_FLOAT_SWITCH(logits.dtype(), kOp, T, {
    T* to = dlogits.data<T>();
    const T* from = logits.data<T>();
    const BackwardInputs in{targets.data<std::int32_t>(),
                            lse.data<float>(),
                            scale.raw(),
                            scale.dtype() == DType::F32,
                            begin,
                            logits.rows(),
                            logits.cols()};
    constexpr int V = kVector<T>;
    // 32-bit divisions are the cheaper ones; the margin keeps a last block's counts from wrapping.
    const bool small = logits.numel() < (std::int64_t{1} << 31);
    if (!is_aligned(to, 16) || !is_aligned(from, 16))
      launch_gradient<1, T, std::uint64_t>(to, from, in);
    else if (small)
      launch_gradient<V, T, std::uint32_t>(to, from, in);
    else
      launch_gradient<V, T, std::uint64_t>(to, from, in);
  });
}

}  // namespace nibble::cuda
