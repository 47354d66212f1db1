// Folds of columns of [n, inner] slabs in the very order of cpu/reduce.cpp, so that their bits
// agree with the CPU's: bands of 512 rows; in a band four rows are folded pairwise and then into
// the band's value; the bands one after another. Reads every element once.
#pragma once

#include "tensor/cuda/lanes.cuh"

namespace nibble::cuda {

inline constexpr int kBandRows = 512;

// Four rows of one column, or of the V columns of a vector.
template <class Fold, int V, class T>
__device__ void fold_four(const T* row, std::int64_t inner, float (&out)[V]) {
  const Fold fold;
  Vector<T, V> x[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) x[k] = load_vector<T, V>(row + k * inner);
#pragma unroll
  for (int e = 0; e < V; ++e)
    out[e] = fold(fold(to_float(x[0][e]), to_float(x[1][e])),
                  fold(to_float(x[2][e]), to_float(x[3][e])));
}

// One thread V columns, all their rows: for many columns.
template <int V, class T, class Fold, class Emit>
__global__ void fold_columns_kernel(const T* x, std::int64_t outer, std::int64_t n,
                                    std::int64_t inner, Emit emit) {
  const std::int64_t i = (blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x) * V;
  if (i >= outer * inner) return;
  const Fold fold;
  const T* row = x + i / inner * n * inner + i % inner;
  float total[V];
  for (std::int64_t r0 = 0; r0 == 0 || r0 < n; r0 += kBandRows) {
    const std::int64_t r1 = r0 + kBandRows < n ? r0 + kBandRows : n;
    float band[V];
#pragma unroll
    for (int e = 0; e < V; ++e) band[e] = Fold::template initial<float>();
    std::int64_t r = r0;
#pragma unroll 2
    for (; r + 4 <= r1; r += 4, row += 4 * inner) {
      float four[V];
      fold_four<Fold>(row, inner, four);
#pragma unroll
      for (int e = 0; e < V; ++e) band[e] = fold(band[e], four[e]);
    }
    for (; r < r1; ++r, row += inner)
#pragma unroll
      for (int e = 0; e < V; ++e) band[e] = fold(band[e], to_float(row[e]));
#pragma unroll
    for (int e = 0; e < V; ++e) total[e] = r0 == 0 ? band[e] : fold(total[e], band[e]);
  }
#pragma unroll
  for (int e = 0; e < V; ++e) emit(i + e, total[e]);
}

// How fold_band_kernel's blocks cover the columns: 1 << log_width vectors each.
struct Bands {
  std::int64_t n, inner, bands, tiles;
  int log_width;
};

// A block takes one band of up to 64 columns. All threads fold fours into shared memory, then one
// thread a column goes through them in order. Emit((slab · bands + band) · inner + column, value).
template <int V, class T, class Fold, class Emit>
__global__ void __launch_bounds__(256) fold_band_kernel(const T* x, Bands b, Emit emit) {
  constexpr int kColumns = 64;
  __shared__ alignas(16) float fours[kBandRows / 4][kColumns];
  const std::int64_t tile = blockIdx.x % b.tiles,
                     slab = blockIdx.x / b.tiles;  // slab: of [o, band]
  const std::int64_t r0 = slab % b.bands * kBandRows;
  const auto rows = static_cast<int>(b.n - r0 < kBandRows ? b.n - r0 : kBandRows);
  const int width = 1 << b.log_width;
  const std::int64_t c0 = tile * width * V;
  const T* first = x + (slab / b.bands * b.n + r0) * b.inner + c0;
  const Fold fold;

  const int v = static_cast<int>(threadIdx.x) & (width - 1);
  if (c0 + v * V < b.inner) {
#pragma unroll 2
    for (int g = static_cast<int>(threadIdx.x) >> b.log_width; g < rows / 4;
         g += 256 >> b.log_width) {
      alignas(16) float four[V];
      fold_four<Fold>(first + 4 * g * b.inner + v * V, b.inner, four);
      constexpr int kStore = V < 4 ? V : 4;  // 16 bytes at once: fewer bank conflicts
#pragma unroll
      for (int e = 0; e < V; e += kStore)
        store_vector(&fours[g][v * V + e],
                     *reinterpret_cast<const Vector<float, kStore>*>(four + e));
    }
  }
  __syncthreads();
  const auto column = static_cast<int>(threadIdx.x);
  if (column >= width * V || c0 + column >= b.inner) return;
  float total = Fold::template initial<float>();
#pragma unroll 8
  for (int g = 0; g < rows / 4; ++g) total = fold(total, fours[g][column]);
  for (int r = rows / 4 * 4; r < rows; ++r)
    total = fold(total, to_float(first[r * b.inner + column]));
  emit(slab * b.inner + c0 + column, total);
}

// Bands [outer, bands, inner] folded in order: 32 columns a block, whose warps load what its first
// one folds. Emit(o · inner + column, value) stores.
template <class Fold, class Emit>
__global__ void __launch_bounds__(256)
    fold_bands_kernel(const float* partial, std::int64_t bands, std::int64_t inner,
                      std::int64_t count, Emit emit) {
  constexpr int kStage = 128;
  __shared__ float stage[kStage][kWarp];
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const std::int64_t i = blockIdx.x * std::int64_t{kWarp} + lane;
  const float* from = partial + i / inner * bands * inner + i % inner;
  const Fold fold;
  float total = 0;
  for (std::int64_t first = 0; first < bands; first += kStage) {
    const int here = bands - first < kStage ? static_cast<int>(bands - first) : kStage;
    __syncthreads();
    if (i < count) {
#pragma unroll 16
      for (int k = static_cast<int>(warp); k < here; k += 256 / kWarp)
        stage[k][lane] = from[(first + k) * inner];
    }
    __syncthreads();
    if (warp != 0) continue;
    int k = 0;
    if (first == 0) total = stage[k++][lane];
#pragma unroll 8
    for (; k < here; ++k) total = fold(total, stage[k][lane]);
  }
  if (warp == 0 && i < count) emit(i, total);
}
template <class Fold, class Emit>
void fold_bands(const Tensor& partial, std::int64_t outer, std::int64_t bands, std::int64_t inner,
                Emit emit) {
  const std::int64_t count = outer * inner;
  launch(fold_bands_kernel<Fold, Emit>, static_cast<unsigned>(ceil_div(count, kWarp)), 256, 0,
         partial.data<float>(), bands, inner, count, emit);
}

template <int V, class T, class Fold, class Emit>
void fold_columns_by(const Tensor& x, std::int64_t outer, std::int64_t n, std::int64_t inner,
                     Emit emit) {
  constexpr std::int64_t kMany = std::int64_t{1} << 18;
  const T* from = x.data<T>();
  if (n <= 16 || outer * inner >= kMany) {
    launch(fold_columns_kernel<V, T, Fold, Emit>,
           static_cast<unsigned>(ceil_div(outer * inner / V, 128)), 128, 0, from, outer, n, inner,
           emit);
    return;
  }
  Bands b{n, inner, ceil_div(n, kBandRows), 0, 0};
  while ((2 << b.log_width) * V <= 64 && (std::int64_t{1} << b.log_width) * V < inner)
    ++b.log_width;
  b.tiles = ceil_div(inner, (std::int64_t{1} << b.log_width) * V);
  const auto blocks = static_cast<unsigned>(outer * b.bands * b.tiles);
  if (b.bands == 1) {
    launch(fold_band_kernel<V, T, Fold, Emit>, blocks, 256, 0, from, b, emit);
    return;
  }
  Tensor partial = Tensor::empty({outer, b.bands, inner}, DType::F32, x.device());
  const Store<float> store{partial.data<float>()};
  launch(fold_band_kernel<V, T, Fold, Store<float>>, blocks, 256, 0, from, b, store);
  fold_bands<Fold>(partial, outer, b.bands, inner, emit);
}

// Folds the columns of x [outer, n, inner] and calls emit(o · inner + column, value).
template <class T, class Fold, class Emit>
void fold_columns(const Tensor& x, std::int64_t outer, std::int64_t n, std::int64_t inner,
                  Emit emit) {
  if (outer * inner == 0) return;
  if (inner % kVector<T> == 0 && is_aligned(x.data<T>(), 16))
    fold_columns_by<kVector<T>, T, Fold>(x, outer, n, inner, emit);
  else
    fold_columns_by<1, T, Fold>(x, outer, n, inner, emit);
}

}  // namespace nibble::cuda
