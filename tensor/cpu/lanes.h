// Reductions of contiguous runs in a fixed order: 32 interleaved lanes, folded pairwise. The order
// is the same on every machine and at every vector width. With fewer lanes GCC unrolls the inner
// loop before it could vectorise it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

#include "tensor/dtype.h"
#include "tensor/scalar_math.h"

namespace nibble::cpu {

inline constexpr int kLanes = 32;

struct SumFold {
  template <class C>
  static constexpr C initial() {
    return C(0);
  }
  template <class C>
  C operator()(C total, C x) const {
    return total + x;
  }
};
// A NaN stays: it replaces any number, and no number is greater than it.
struct MaxFold {
  template <class C>
  static constexpr C initial() {
    return -std::numeric_limits<C>::infinity();
  }
  template <class C>
  C operator()(C best, C x) const {
    return (x > best) | (x != x) ? x : best;
  }
};

// Folds f(x[i]…), computed in C.
template <class C, class Fold, class F, class... X>
C lane_fold(std::int64_t n, Fold fold, F f, const X*... x) {
  std::array<C, kLanes> lane;
  lane.fill(Fold::template initial<C>());
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lane[l] = fold(lane[l], f(static_cast<C>(x[i + l])...));
  for (int l = 0; i + l < n; ++l) lane[l] = fold(lane[l], f(static_cast<C>(x[i + l])...));
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int l = 0; l < width; ++l) lane[l] = fold(lane[l], lane[l + width]);
  return lane[0];
}

template <class C, class T>
C lane_sum(const T* x, std::int64_t n) {
  return lane_fold<C>(
      n, SumFold{}, [](C v) { return v; }, x);
}
template <class C, class T>
C lane_max(const T* x, std::int64_t n) {
  return lane_fold<C>(
      n, MaxFold{}, [](C v) { return v; }, x);
}

// Σ e^(x − m), a block at a time: exponentials into a buffer, then its lane sum.
template <class C, class T>
C lane_exp_sum(const T* x, std::int64_t n, C m) {
  constexpr std::int64_t kBlock = 512;
  std::array<C, kBlock> buffer;
  C total = 0;
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, n - begin);
    for (std::int64_t i = 0; i < count; ++i)
      buffer[i] = scalar::exp(static_cast<C>(x[begin + i]) - m);
    total += lane_sum<C>(buffer.data(), count);
  }
  return total;
}

}  // namespace nibble::cpu
