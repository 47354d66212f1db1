// Philox draws (rng.h) with the round keys prepared by the host: as kernel parameters they are
// operands that cost nothing, where nvcc adds them up again in every call, two of six instructions
// a round.
#pragma once

#include "tensor/cuda/common.cuh"
#include "tensor/rng.h"

namespace nibble::cuda {

class KeyedDraws {
 public:
  explicit KeyedDraws(const RngKey& key) : site_(key.site), step_(key.step) {
    auto k0 = static_cast<std::uint32_t>(key.seed);
    auto k1 = static_cast<std::uint32_t>(key.seed >> 32);
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
      k0_[round] = k0, k1_[round] = k1;
  }

  // Draws16 of a thread.
  class Stream {
   public:
    __device__ Stream(const KeyedDraws& keys, std::uint32_t step) : keys_(keys), step_(step) {}
    // The eight draws of elements [8 · index, 8 · index + 8).
    __device__ Philox block(std::uint64_t index) const {
      auto c0 = static_cast<std::uint32_t>(index), c1 = static_cast<std::uint32_t>(index >> 32);
      std::uint32_t c2 = keys_.site_, c3 = step_;
#pragma unroll
      for (int round = 0; round < 10; ++round) {
        const std::uint64_t a = 0xD2511F53ull * c0, b = 0xCD9E8D57ull * c2;
        c0 = static_cast<std::uint32_t>(b >> 32) ^ c1 ^ keys_.k0_[round];
        c1 = static_cast<std::uint32_t>(b);
        c2 = static_cast<std::uint32_t>(a >> 32) ^ c3 ^ keys_.k1_[round];
        c3 = static_cast<std::uint32_t>(a);
      }
      return {{c0, c1, c2, c3}};
    }

   private:
    const KeyedDraws& keys_;
    std::uint32_t step_;
  };
  // Reads the step, unless no draw is wanted.
  __device__ Stream stream(bool wanted = true) const {
    return {*this, wanted && step_ ? *step_ : 0};
  }

 private:
  std::uint32_t k0_[10], k1_[10], site_;
  const std::uint32_t* step_;
};

}  // namespace nibble::cuda
