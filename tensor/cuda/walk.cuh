// Strided index spaces as kernels walk them: 32-bit offsets, and division by multiplication.
#pragma once

#include "tensor/cuda/common.cuh"
#include "tensor/strided.h"

namespace nibble::cuda {

// Division of n < 2^31 by an invariant d (Granlund and Montgomery, PLDI'94): a high product, a sum
// and a shift.
class Divider {
 public:
  Divider() = default;
  explicit Divider(std::uint32_t d) : divisor_(d) {
    while ((1ull << shift_) < d) ++shift_;
    factor_ = static_cast<std::uint32_t>(((1ull << 32) * ((1ull << shift_) - d)) / d + 1);
  }
  NIBBLE_HD std::uint32_t divisor() const { return divisor_; }
  NIBBLE_HD std::uint32_t quotient(std::uint32_t n) const {
    return (static_cast<std::uint32_t>((std::uint64_t{n} * factor_) >> 32) + n) >> shift_;
  }

 private:
  std::uint32_t divisor_ = 1, factor_ = 1, shift_ = 0;
};

// Offsets of K operands for a number in logical order. Dimension 0 is the innermost.
template <int K>
struct Walk {
  int rank = 1;
  std::uint32_t numel = 0;
  Divider extent[Shape::kMaxRank];
  std::uint32_t stride[K][Shape::kMaxRank] = {};

  struct Offsets {
    std::uint32_t at[K];
  };
  __device__ Offsets operator()(std::uint32_t i) const {
    Offsets o;
#pragma unroll
    for (int k = 0; k < K; ++k) o.at[k] = 0;
#pragma unroll
    for (int d = 0; d < Shape::kMaxRank; ++d) {
      if (d >= rank) break;
      const std::uint32_t q = extent[d].quotient(i), r = i - q * extent[d].divisor();
#pragma unroll
      for (int k = 0; k < K; ++k) o.at[k] += r * stride[k][d];
      i = q;
    }
    return o;
  }
};

template <int K>
bool fits_walk(const Strided<K>& s) {
  constexpr std::int64_t kLimit = std::int64_t{1} << 31;
  if (s.numel() >= kLimit) return false;
  for (const auto& stride : s.stride) {
    std::int64_t last = 0;
    for (int d = 0; d < s.rank; ++d) last += (s.extent[d] - 1) * stride[d];
    if (last >= kLimit) return false;
  }
  return true;
}

template <int K>
Walk<K> make_walk(const Strided<K>& s) {
  Walk<K> w;
  w.rank = s.rank;
  w.numel = static_cast<std::uint32_t>(s.numel());
  for (int d = 0; d < s.rank; ++d) {
    const int from = s.rank - 1 - d;
    w.extent[d] = Divider(static_cast<std::uint32_t>(s.extent[from]));
    for (std::size_t k = 0; k < s.stride.size(); ++k)
      w.stride[k][d] = static_cast<std::uint32_t>(s.stride[k][from]);
  }
  return w;
}

// Halves of s along its outermost dimension of more than one index; operand k of `high` starts at
// element first[k].
template <int K>
struct Halves {
  Strided<K> low, high;
  std::array<std::int64_t, static_cast<std::size_t>(K)> first{};
};
template <int K>
Halves<K> halves(const Strided<K>& s) {
  int cut = 0;
  while (s.extent[cut] == 1) ++cut;
  Halves<K> h{s, s};
  h.low.extent[cut] = s.extent[cut] / 2;
  h.high.extent[cut] = s.extent[cut] - h.low.extent[cut];
  for (std::size_t k = 0; k < h.first.size(); ++k)
    h.first[k] = h.low.extent[cut] * s.stride[k][cut];
  return h;
}

}  // namespace nibble::cuda
