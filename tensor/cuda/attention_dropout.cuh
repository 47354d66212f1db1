// Which probabilities survive dropout: a lane draws runs of consecutive elements, eight to a Philox
// call, and the lanes of a warp hand each other the bits that their fragments need.
#pragma once

#include "tensor/cuda/attention_mma.cuh"

namespace nibble::cuda {

// Draws for runs of elements, whose eight-element Philox blocks start anywhere.
class DropoutDraws {
 public:
  __device__ DropoutDraws(const AttentionDropout& d, const AttentionShape& s, int b, int h)
      : draws_(d.key, d.key.step_value()),
        threshold_(d.threshold),
        keys_(s.keys),
        first_(static_cast<std::int64_t>(b * s.heads + h) * s.queries) {}

  // Bit i: whether the probability of (t, s + i) survives. Bits from kBits on mean nothing.
  template <int kBits>
  __device__ std::uint64_t bits(int t, int s) const {
    static_assert(kBits % 8 == 0 && kBits <= 64);
    const std::int64_t element = (first_ + t) * keys_ + s;
    const std::int64_t block = element >> 3;
    const int skip = static_cast<int>(element & 7);
    std::uint64_t kept = 0;
#pragma unroll
    for (int i = 0; i < kBits / 8; ++i)
      kept |= static_cast<std::uint64_t>(eight(block + i)) << (8 * i);
    if (skip != 0)
      kept =
          (kept >> skip) | (static_cast<std::uint64_t>(eight(block + kBits / 8)) << (kBits - skip));
    return kept;
  }

 private:
  __device__ std::uint32_t eight(std::int64_t block) const {
    const Philox p = draws_.block(static_cast<std::uint64_t>(block));
    std::uint32_t kept = 0;
#pragma unroll
    for (unsigned i = 0; i < 8; ++i)
      kept |= static_cast<std::uint32_t>(Draws16::pick(p, i) >= threshold_) << i;
    return kept;
  }

  Draws16 draws_;
  std::uint32_t threshold_;
  std::int64_t keys_, first_;
};

// The bits of a warp's accumulators.
template <int kRowTiles, int kColumns>
class KeptProbabilities {
 public:
  // Rows are queries from t on, columns are keys from s on.
  __device__ void draw_by_rows(const DropoutDraws& draws, int t, int s) {
    constexpr int kLanes = 2 / kRowTiles;  // to a row
    constexpr int kRun = kColumns / kLanes, kWord = kRun < 32 ? kRun : 32;
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const std::uint64_t run = draws.bits<kRun>(t + lane / kLanes, s + lane % kLanes * kRun);
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int n = 0; n < kTiles; n += 8) bits_[i][n / 8] = 0;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = 16 * i + 8 * half + lane / 4;
        std::uint32_t word = 0;
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
          if (8 * n % kWord == 0)
            word = __shfl_sync(kFullMask, static_cast<std::uint32_t>(run >> (8 * n % kRun)),
                               row * kLanes + 8 * n / kRun);
          bits_[i][n / 8] |= (word >> (8 * n % kWord + lane % 4 * 2) & 3u)
                             << (4 * (n % 8) + 2 * half);
        }
      }
    }
  }
  // Rows are keys from s on, columns are queries from t on.
  __device__ void draw_by_columns(const DropoutDraws& draws, int t, int s) {
    static_assert(kRowTiles == 1 && kColumns % 32 == 0 && kColumns <= 64);
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    std::uint32_t run = 0;
#pragma unroll
    for (int u = 0; u < kColumns / 32; ++u)
      run |= static_cast<std::uint32_t>(draws.bits<16>(t + 32 * u + lane, s) & 0xffffu) << (16 * u);
    bits_[0][0] = 0;
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const std::uint32_t word = __shfl_sync(kFullMask, run, 8 * n + lane % 4 * 2 + e);
#pragma unroll
        for (int u = 0; u < kColumns / 32; ++u)
#pragma unroll
          for (int half = 0; half < 2; ++half)
            bits_[0][0] |= (word >> (16 * u + 8 * half + lane / 4) & 1u)
                           << (4 * (n + 4 * u) + 2 * half + e);
      }
  }
  // What was dropped becomes 0.
  __device__ void apply(Accumulators<kRowTiles, kColumns>& x) const {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (!kept(i, n, e)) x.v[i][n][e] = 0;
  }
  // The same of packed probabilities, whose register r of k holds tile 2k + r / 2.
  __device__ void apply(std::uint32_t (&packed)[kColumns / 16][4]) const {
#pragma unroll
    for (int k = 0; k < kColumns / 16; ++k)
#pragma unroll
      for (int r = 0; r < 4; ++r)
        packed[k][r] &= (kept(0, 2 * k + r / 2, r % 2 * 2) ? 0xffffu : 0) |
                        (kept(0, 2 * k + r / 2, r % 2 * 2 + 1) ? 0xffff0000u : 0);
  }

 private:
  __device__ bool kept(int i, int n, int e) const {
    return (bits_[i][n / 8] >> (4 * (n % 8) + e) & 1u) != 0;
  }

  static constexpr int kTiles = kColumns / 8;
  std::uint32_t bits_[kRowTiles][(kTiles + 7) / 8];
};

}  // namespace nibble::cuda
