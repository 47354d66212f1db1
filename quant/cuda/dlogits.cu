// Both encodings of dlogits without dlogits (quant_dlogits), in two passes over the logits.
//
// The first finds a row's loss and log-sum-exp and the step of its codes: (softmax − onehot) rises
// with the logit, so its largest magnitude is that of the largest logit but the target's, or the
// target's (0 unless with_target). It reads 2 bytes an element, with one exponential (16 a clock)
// and 13 instructions: 75 % of a large copy's rate, 74 % of the issue slots.
//
// The second, in dlogits_codes.cuh, reads 2 bytes an element and writes 1 + 1, with 28 instructions
// (noise included): two thirds of a copy's rate; its blocks wait at three barriers a tile.
// tests/bench/results/2026-11-29-classifier.md.
#include <algorithm>
#include <utility>

#include "quant/cuda/dlogits_codes.cuh"
#include "quant/kernels.h"

namespace nibble::cuda {
namespace {

using dlogits::Matrices, dlogits::RowFacts, dlogits::TokenTile;
using one_pass::Rule;

__device__ std::uint16_t rounded_bits(float x) { return bfloat16(x).bits; }
constexpr int kFactThreads = 1024;  // of a multiprocessor

// Blocks that stay: a thread's next vectors, be they the next row's, are on their way while it adds
// up these.
template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock, kFactThreads / Tile::kBlock)
    facts_kernel(RowFacts* facts, float* losses, float* steps, const bfloat16* logits,
                 const std::int32_t* targets, const float* scale, bool with_target,
                 std::int64_t rows, int cols, const __grid_constant__ Rule rule) {
  using T = bfloat16;
  constexpr int V = kVector<T>, kStep = Tile::kThreads * V;
  extern __shared__ uint4 coming[];  // two batches of the block
  __shared__ float scratch[3][Tile::kBlockWarps];
  const std::int64_t step = gridDim.x * std::int64_t{Tile::kRows};
  const float factor = *scale;
  // The product wrote the last rows last: they may still lie in the second-level cache.
  std::int64_t row = rows - 1 - Tile::row();
  uint4 *own = coming + threadIdx.x, *other = own + loss::kAtOnce * Tile::kBlock;
  const auto fetch = [&](uint4* to, std::int64_t of, std::int64_t first) {
#pragma unroll
    for (int j = 0; j < loss::kAtOnce; ++j, to += Tile::kBlock, first += kStep) {
      if (first < cols && of >= 0)
        copy_async(shared_address(to), logits + of * cols + first, 16);
      else
        *to = {0xff80ff80u, 0xff80ff80u, 0xff80ff80u, 0xff80ff80u};  // −inf
    }
    commit_copies();
  };
  fetch(own, row, Tile::thread() * V);
  for (; row >= 0; row -= step) {
    const int target = loss::column_of(targets[row], cols);
    const float x = target < 0 ? 0.0f : to_float(logits[row * cols + target]);
    const loss::Statistics found = loss::statistics_of<T, Tile, true>(
        cols, target, scratch, [&](std::int64_t first, auto& batch) {
          const std::int64_t next = first + loss::kAtOnce * kStep;
          const bool more = next < cols;
          fetch(other, more ? row : row - step, more ? next : Tile::thread() * V);
          wait_for_copies<1>();
#pragma unroll
          for (int j = 0; j < loss::kAtOnce; ++j)
            batch[j] = *reinterpret_cast<const Vector<T, V>*>(own + j * Tile::kBlock);
          std::swap(own, other);
        });
    if (Tile::thread() != 0) continue;
    const loss::Gradient<T> gradient(found.lse, factor);
    RowFacts f{gradient.folds() ? gradient.shift() : found.lse, 0, target, 0, gradient.folds()};
    std::uint32_t most = 0;
    if (target >= 0) {
      if (with_target) f.at_target = rounded_bits(gradient.at_target(x) * dlogits::sign_of(factor));
      const std::uint32_t other = rounded_bits(gradient(found.others));
      most = ::max(f.at_target & 0x7fffu, other & 0x7fffu) << 16;
    }
    losses[row] = target < 0 ? 0.0f : found.lse - x;
    f.step = rule.of_largest(most);
    steps[row] = f.step;
    facts[row] = f;
  }
}

template <class Tile>
void codes_of_tiles(Matrices m, const QuantSpec& by_column, const RngKey& key) {
  m.runs = static_cast<std::uint32_t>(ceil_div(m.rows, Tile::kRows));
  m.tiles = static_cast<std::uint32_t>(ceil_div(m.cols, Tile::kColumns));
  // One wave of blocks.
  const auto blocks = static_cast<std::uint32_t>(multiprocessors() * Tile::kResident);
  m.strips = std::clamp(blocks / m.runs, 1u, m.tiles);
  const auto run = [&](auto kernel) {
    launch(kernel, m.runs * m.strips, Tile::kBlock, 0, m, Rule(by_column), KeyedDraws(key));
  };
  if (by_column.rounding == Rounding::Stochastic)
    run(dlogits::codes_kernel<Tile, true>);
  else
    run(dlogits::codes_kernel<Tile, false>);
}

}  // namespace

void quant_dlogits(Tensor& row_codes, Tensor& row_scales, Tensor& column_codes,
                   Tensor& column_scales, Tensor& losses, const Tensor& logits,
                   const Tensor& targets, const Tensor& scale, bool with_target,
                   const QuantSpec& by_row, const QuantSpec& by_column, const RngKey& key) {
  const std::int64_t rows = logits.size(0), cols = logits.size(1);
  const Tensor found = Tensor::empty({rows, 4}, DType::F32, logits.device());
  auto* const facts = reinterpret_cast<RowFacts*>(const_cast<std::byte*>(found.raw()));
  loss::with_tile<true>(row_length("quantize", logits), [&](auto tile) {
    using Tile = decltype(tile);
    const unsigned blocks =
        std::min(Tile::blocks(rows),
                 static_cast<unsigned>(multiprocessors() * (kFactThreads / Tile::kBlock)));
    constexpr int kShared = 2 * loss::kAtOnce * Tile::kBlock * 16;
    NIBBLE_CUDA_CHECK(cudaFuncSetAttribute(facts_kernel<Tile>,
                                           cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
    launch(facts_kernel<Tile>, blocks, Tile::kBlock, kShared, facts, losses.data<float>(),
           row_scales.data<float>(), logits.data<bfloat16>(), targets.data<std::int32_t>(),
           scale.data<float>(), with_target, rows, static_cast<int>(cols), Rule(by_row));
  });
  const auto pair_of = [](const QuantSpec& spec) {
    return 0x10001u * static_cast<std::uint32_t>(spec.format.qmax());
  };
  const Matrices m{.row_codes = reinterpret_cast<std::uint8_t*>(row_codes.raw()),
                   .column_codes = reinterpret_cast<std::uint8_t*>(column_codes.raw()),
                   .column_steps = column_scales.data<float>(),
                   .logits = logits.data<bfloat16>(),
                   .facts = facts,
                   .scale = scale.data<float>(),
                   .rows = checked_extent(rows),
                   .cols = checked_extent(cols),
                   .runs = 0,
                   .tiles = 0,
                   .strips = 0,
                   .row_high = static_cast<float>(by_row.format.qmax()),
                   .column_high = static_cast<float>(by_column.format.qmax()),
                   .row_pair = pair_of(by_row),
                   .column_pair = pair_of(by_column),
                   .flip = dlogits::kFlip};
  if (by_column.resolve(cols, rows).cols == 256)
    codes_of_tiles<TokenTile<256>>(m, by_column, key);
  else
    codes_of_tiles<TokenTile<128>>(m, by_column, key);
}

}  // namespace nibble::cuda
