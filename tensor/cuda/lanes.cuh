// Folds of contiguous rows in the very order of cpu/lanes.h, so that their bits agree with the
// CPU's: pieces of 16384 elements, each in 32 interleaved lanes that are folded pairwise; the
// pieces then one after another. Reads every element once.
#pragma once

#include "tensor/cuda/rows.cuh"

namespace nibble::cuda {

inline constexpr std::int64_t kPiece = 16384;  // cpu/loops.h's kGrain

struct SumFold {
  template <class C>
  __device__ static C initial() {
    return C(0);
  }
  template <class C>
  __device__ C operator()(C total, C x) const {
    return total + x;
  }
};
// A NaN stays; of equals (two zeros) the first does.
struct MaxFold {
  template <class C>
  __device__ static C initial() {
    return C(-INFINITY);
  }
  template <class C>
  __device__ C operator()(C best, C x) const {
    return (x > best) | (x != x) ? x : best;
  }
};

// What the terms of a fold are.
struct Itself {
  template <class C>
  __device__ C operator()(C x) const {
    return x;
  }
};
struct Square {
  template <class C>
  __device__ C operator()(C x) const {
    return x * x;  // of f32 values in f64: exact
  }
};

// The initial value as an element: it changes no fold's bits, so it may stand for what is missing.
template <class T, class Fold>
__device__ T missing() {
  return from_float<T>(Fold::template initial<float>());
}

// Where results go. begin(i, first) is what a fold that goes from left to right starts with.
template <class D>
struct Store {
  D* to;
  template <class C>
  __device__ C begin(std::int64_t, C first) const {
    return first;
  }
  template <class C>
  __device__ void operator()(std::int64_t i, C value) const {
    to[i] = static_cast<D>(value);
  }
};

// Short rows: 32 / V threads a row, each with V of its lanes.
template <class C, class T, class Fold, class Term, class Emit>
__global__ void fold_short_rows(const T* x, std::int64_t rows, std::int64_t n, Emit emit) {
  constexpr int V = kVector<T>;
  constexpr unsigned kGroup = kWarp / V;
  const std::int64_t thread = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  const std::int64_t row = thread / kGroup, begin = thread % kGroup * V;
  const Fold fold;
  C lane[V];
#pragma unroll
  for (int e = 0; e < V; ++e) lane[e] = Fold::template initial<C>();
  if (row < rows) {
    const T* from = x + row * n;
#pragma unroll 8
    for (std::int64_t i = begin; i < n; i += kWarp) {
      const auto v = load_row_vector(from + i, valid_at<T>(n, i), missing<T, Fold>());
#pragma unroll
      for (int e = 0; e < V; ++e) lane[e] = fold(lane[e], Term{}(static_cast<C>(to_float(v[e]))));
    }
  }
#pragma unroll
  for (int distance = kGroup / 2; distance > 0; distance /= 2)
#pragma unroll
    for (int e = 0; e < V; ++e)
      lane[e] = fold(lane[e], __shfl_xor_sync(kFullMask, lane[e], distance));
#pragma unroll
  for (int width = V / 2; width > 0; width /= 2)
#pragma unroll
    for (int e = 0; e < width; ++e) lane[e] = fold(lane[e], lane[e + width]);
  if (row < rows && begin == 0) emit(row, emit.begin(row, lane[0]));
}

// Long rows: a block a piece. All its warps load stages into shared memory; the first folds them
// while the others load the next. Result i belongs to piece i % pieces of row i / pieces.
template <class C, class T, class Fold, class Term, class Emit>
__global__ void __launch_bounds__(256)
    fold_pieces(const T* x, std::int64_t pieces, std::int64_t n, Emit emit) {
  constexpr int V = kVector<T>, kLoads = 4, kStage = 256 * kLoads * V;
  __shared__ Vector<T, V> stage[256 * kLoads];
  const std::int64_t row = blockIdx.x / pieces, begin = blockIdx.x % pieces * kPiece;
  const std::int64_t count = n - begin < kPiece ? n - begin : kPiece;
  const T* from = x + row * n + begin;
  const Fold fold;
  Vector<T, V> next[kLoads];
  const auto load = [&](std::int64_t first) {
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const std::int64_t at = first + (j * 256 + threadIdx.x) * std::int64_t{V};
      if (at < count)
        next[j] = load_row_vector(from + at, valid_at<T>(count, at), missing<T, Fold>());
    }
  };
  C lane = Fold::template initial<C>();
  load(0);
  for (std::int64_t first = 0; first < count; first += kStage) {
    __syncthreads();  // the previous stage is folded
#pragma unroll
    for (int j = 0; j < kLoads; ++j) stage[j * 256 + threadIdx.x] = next[j];
    __syncthreads();
    load(first + kStage);
    if (threadIdx.x < kWarp) {
      const T* staged = &stage[0].v[0];
      const int here = count - first < kStage ? static_cast<int>(count - first) : kStage;
#pragma unroll 16
      for (int i = static_cast<int>(threadIdx.x); i < here; i += kWarp)
        lane = fold(lane, Term{}(static_cast<C>(to_float(staged[i]))));
    }
  }
  if (threadIdx.x >= kWarp) return;
  lane = warp_reduce(lane, fold);
  if (threadIdx.x == 0) emit(blockIdx.x, emit.begin(blockIdx.x, lane));
}

// Partial results [rows, pieces] of each row, folded from left to right by one thread, which others
// feed.
template <class C, class Fold, class Emit>
__global__ void __launch_bounds__(256)
    fold_partials_of_rows(const C* partial, std::int64_t pieces, Emit emit) {
  constexpr int kStage = 1024;
  __shared__ C stage[kStage];
  const C* from = partial + blockIdx.x * pieces;
  const Fold fold;
  C total = Fold::template initial<C>();
  for (std::int64_t first = 0; first < pieces; first += kStage) {
    const int here = pieces - first < kStage ? static_cast<int>(pieces - first) : kStage;
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < here; i += 256) stage[i] = from[first + i];
    __syncthreads();
    if (threadIdx.x != 0) continue;
    int i = 0;
    if (first == 0) total = emit.begin(blockIdx.x, stage[i++]);
#pragma unroll 16
    for (; i < here; ++i) total = fold(total, stage[i]);
  }
  if (threadIdx.x == 0) emit(blockIdx.x, total);
}

// Folds each row of x [rows, n]; emit(row, value) stores.
template <class C, class T, class Fold, class Term, class Emit>
void fold_rows(const Tensor& x, std::int64_t rows, std::int64_t n, Emit emit) {
  constexpr std::int64_t kShort = 1024;
  const T* from = x.data<T>();
  const std::int64_t pieces = ceil_div(n, kPiece);
  if (n <= kShort) {
    const std::int64_t threads = rows * (32 / kVector<T>);
    launch(fold_short_rows<C, T, Fold, Term, Emit>, static_cast<unsigned>(ceil_div(threads, 256)),
           256, 0, from, rows, n, emit);
  } else if (pieces == 1) {
    launch(fold_pieces<C, T, Fold, Term, Emit>, static_cast<unsigned>(rows), 256, 0, from, pieces,
           n, emit);
  } else {
    Tensor partial = Tensor::empty({rows, pieces}, dtype_of<C>, x.device());
    const Store<C> store{partial.data<C>()};
    launch(fold_pieces<C, T, Fold, Term, Store<C>>, static_cast<unsigned>(rows * pieces), 256, 0,
           from, pieces, n, store);
    launch(fold_partials_of_rows<C, Fold, Emit>, static_cast<unsigned>(rows), 256, 0,
           partial.data<C>(), pieces, emit);
  }
}

}  // namespace nibble::cuda
