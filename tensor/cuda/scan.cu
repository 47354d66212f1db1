// argmax and cumulative sums along a middle dimension. argmax reads an element once; its answer
// does not depend on the order of comparisons. cumsum scans chunks of fixed length: it reads an
// element twice (once for the totals of chunks, which are scanned alike) and writes it once; lines
// of one chunk are read once. Its order is fixed, but not the CPU's, which goes from left to right.
#include "tensor/cuda/rows.cuh"
#include "tensor/kernels.h"

namespace nibble::cuda {
namespace {

struct Best {
  float value;
  std::int64_t at;  // -1: nothing seen
};
// The first NaN before the greatest number, the first of equals.
__device__ bool beats(const Best& a, const Best& b) {
  if (a.at < 0 || b.at < 0) return b.at < 0 && a.at >= 0;
  const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
  if (a_nan != b_nan) return a_nan;
  if (!a_nan && a.value != b.value) return a.value > b.value;
  return a.at < b.at;
}

// kThreads (1, or warps of one block) a line; element k of a line is x[first + k · inner].
template <int kThreads, class T>
__global__ void argmax_kernel(std::int32_t* y, const T* x, std::int64_t lines, std::int64_t n,
                              std::int64_t inner) {
  __shared__ Best found[32];
  const std::int64_t line =
      (blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x) / std::int64_t{kThreads};
  const auto thread = static_cast<std::int64_t>(threadIdx.x % kThreads);
  Best best{0, -1};
  if (line < lines) {
    const T* first = x + line / inner * n * inner + line % inner;
    if (kThreads > 1 && inner == 1) {
      constexpr int V = kVector<T>;
#pragma unroll 4
      for (std::int64_t k = thread * V; k < n; k += kThreads * V) {
        const auto v = load_row_vector(first + k, valid_at<T>(n, k), T(0.0f));
#pragma unroll
        for (int e = 0; e < V; ++e)
          if (const Best b{to_float(v[e]), k + e}; k + e < n && beats(b, best)) best = b;
      }
    } else {
#pragma unroll 4
      for (std::int64_t k = thread; k < n; k += kThreads)
        if (const Best b{to_float(first[k * inner]), k}; beats(b, best)) best = b;
    }
  }
  if constexpr (kThreads > 1) {
    const auto across_warp = [&] {
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2) {
        const Best other{__shfl_xor_sync(kFullMask, best.value, distance),
                         __shfl_xor_sync(kFullMask, best.at, distance)};
        if (beats(other, best)) best = other;
      }
    };
    across_warp();
    if constexpr (kThreads > 32) {
      if (threadIdx.x % kWarp == 0) found[threadIdx.x / kWarp] = best;
      __syncthreads();
      best = threadIdx.x < kThreads / kWarp ? found[threadIdx.x] : Best{0, -1};
      if (threadIdx.x < kWarp) across_warp();
    }
  }
  if (line < lines && thread == 0) y[line] = static_cast<std::int32_t>(best.at);
}
template <int kThreads, class T>
void argmax_by(Tensor& y, const Tensor& x, std::int64_t lines, std::int64_t n, std::int64_t inner) {
  constexpr int kBlock = kThreads > 32 ? kThreads : 128;
  launch(argmax_kernel<kThreads, T>, static_cast<unsigned>(ceil_div(lines * kThreads, kBlock)),
         kBlock, 0, y.data<std::int32_t>(), x.data<T>(), lines, n, inner);
}

constexpr int kScanThreads = 256;
constexpr std::int64_t kScanRows = 256;  // of a chunk whose lines lie `inner` apart
// Rows this short are scanned by one thread, like columns.
constexpr std::int64_t kShortRow = 32;

// A block scans one chunk of one row. `totals` given: only its sum, into totals[row, chunk];
// otherwise y, on from `before`[row, chunk − 1], the inclusive scan of totals.
template <class T>
__global__ void __launch_bounds__(kScanThreads)
    scan_row_chunks(T* y, float* totals, const float* before, const T* x, std::int64_t n,
                    std::int64_t chunks) {
  constexpr int V = kVector<T>, kWarps = kScanThreads / 32;
  __shared__ float warp_total[kWarps];
  const std::int64_t row = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
  const std::int64_t at = (chunk * kScanThreads + threadIdx.x) * V;
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  Vector<T, V> v{};
  if (at < n) v = load_row_vector(x + row * n + at, valid_at<T>(n, at), T(0.0f));
  float own = 0;
#pragma unroll
  for (int e = 0; e < V; ++e) own += to_float(v[e]);

  float sum = own;  // of this thread and the lanes before it
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const float left = __shfl_up_sync(kFullMask, sum, distance);
    if (lane >= distance) sum = left + sum;
  }
  if (lane == 31) warp_total[warp] = sum;
  __syncthreads();
  float running = !totals && chunk > 0 ? before[row * chunks + chunk - 1] : 0;
  for (int w = 0; w < (totals ? kWarps : static_cast<int>(warp)); ++w) running += warp_total[w];
  if (totals) {
    if (threadIdx.x == 0) totals[blockIdx.x] = running;
    return;
  }
  const float left = __shfl_up_sync(kFullMask, sum, 1);
  if (lane > 0) running += left;
  if (at >= n) return;
#pragma unroll
  for (int e = 0; e < V; ++e) {
    running += to_float(v[e]);
    v[e] = from_float<T>(running);
  }
  store_row_vector(y + row * n + at, valid_at<T>(n, at), v);
}

// The same for lines that lie `inner` apart: a thread takes kScanRows elements of a line.
template <class T>
__global__ void __launch_bounds__(kScanThreads)
    scan_line_chunks(T* y, float* totals, const float* before, const T* x, std::int64_t count,
                     std::int64_t n, std::int64_t inner, std::int64_t chunks) {
  const std::int64_t i = blockIdx.x * std::int64_t{kScanThreads} + threadIdx.x;
  if (i >= count) return;  // i counts [outer, chunks, inner]
  const std::int64_t chunk = i / inner % chunks, k0 = chunk * kScanRows;
  const std::int64_t k1 = k0 + kScanRows < n ? k0 + kScanRows : n;
  const std::int64_t first = i / inner / chunks * n * inner + i % inner;
  float running = !totals && chunk > 0 ? before[i - inner] : 0;
#pragma unroll 8
  for (std::int64_t k = k0; k < k1; ++k) {
    running += to_float(x[first + k * inner]);
    if (!totals) y[first + k * inner] = from_float<T>(running);
  }
  if (totals) totals[i] = running;
}

template <class T>
void scan(T* y, const T* x, std::int64_t outer, std::int64_t n, std::int64_t inner, Device device) {
  if (outer * n * inner == 0) return;
  const bool rows = inner == 1 && n > kShortRow;
  const std::int64_t chunks = ceil_div(n, rows ? kScanThreads * kVector<T> : kScanRows);
  const std::int64_t count = outer * chunks * inner;
  const auto run = [&](float* totals, const float* before) {
    if (rows)
      launch(scan_row_chunks<T>, static_cast<unsigned>(count), kScanThreads, 0, y, totals, before,
             x, n, chunks);
    else
      launch(scan_line_chunks<T>, static_cast<unsigned>(ceil_div(count, kScanThreads)),
             kScanThreads, 0, y, totals, before, x, count, n, inner, chunks);
  };
  if (chunks == 1) return run(nullptr, nullptr);
  Tensor totals = Tensor::empty({outer, chunks, inner}, DType::F32, device);
  auto* of_chunks = totals.data<float>();
  run(of_chunks, nullptr);
  scan<float>(of_chunks, of_chunks, outer, chunks, inner, device);
  run(nullptr, of_chunks);
}

}  // namespace

void argmax(Tensor& y, const Tensor& x, std::int64_t outer, std::int64_t n, std::int64_t inner) {
  constexpr std::int64_t kMany = std::int64_t{1} << 16;
  const std::int64_t lines = outer * inner;
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "argmax", T, {
    if (inner > 1 && (n <= 32 || lines >= kMany))
      argmax_by<1, T>(y, x, lines, n, inner);
    else if (n <= 1024)
      argmax_by<32, T>(y, x, lines, n, inner);
    else
      argmax_by<512, T>(y, x, lines, n, inner);
  });
}

void cumsum(Tensor& y, const Tensor& x, std::int64_t outer, std::int64_t n, std::int64_t inner) {
  NIBBLE_CUDA_FLOAT_SWITCH(y.dtype(), "cumsum", T,
                           scan<T>(y.data<T>(), x.data<T>(), outer, n, inner, y.device()));
}

}  // namespace nibble::cuda
