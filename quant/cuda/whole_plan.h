// How int_gemm_whole.cu cuts a product into tiles and deals them: no choice changes a bit.
#pragma once

#include <cstdint>

#include "quant/cuda/int_gemm.h"
#include "quant/stream_k.h"

namespace nibble::cuda {

struct WholePlan {
  std::uint32_t columns;  // of a tile of 128 rows
  // Tiles that don't fill the device (all, or the rest after whole turns) are split along the
  // contraction over all clusters, so many of them at a time that it takes this many rounds; 0:
  // none is split. More than one was never faster: each joins parts anew.
  std::uint32_t rounds;
};
inline constexpr std::uint32_t kWholeColumns[] = {256, 192, 128}, kWholeRounds[] = {0, 1};
inline constexpr std::int64_t kWholeMinSplit = 1024;  // codes of a contraction worth splitting

// The plan's own, or the one that takes least by an estimate.
WholePlan whole_plan(const IntPlan& plan, std::int64_t m, std::int64_t n, std::int64_t k,
                     std::uint32_t clusters);
StreamK deal(std::uint32_t tiles, std::uint32_t steps, std::uint32_t rounds,
             std::uint32_t clusters);
// Rows of tiles that are taken together, so that those at work at once share operands in the L2.
std::uint32_t strip_of(const StreamK& plan);

}  // namespace nibble::cuda
