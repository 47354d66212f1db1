// The range of each tile: largest magnitudes, or least and largest values for zero points. Reads 2
// or 4 bytes an element and writes next to nothing; one or two integer operations an element, so
// all shapes should run at the bandwidth of reading.
//
// Values are compared as integers, whose maximum does not depend on order: NaN and infinities win,
// and parts of one tile may meet in atomicMax.
#include <bit>

#include "quant/cuda/extremes.cuh"
#include "quant/cuda/sums.h"
#include "quant/cuda/tile_steps.cuh"
#include "quant/kernels.h"

namespace nibble::cuda {
namespace {

using extremes::Extremes, extremes::Largest, extremes::Output, extremes::reduce_lanes;

constexpr unsigned kBlock = 256;

__global__ void __launch_bounds__(kBlock) finish_kernel(Output out, std::int64_t tiles) {
  const std::int64_t t = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  if (t >= tiles) return;
  const std::uint32_t found[2] = {std::bit_cast<std::uint32_t>(out.ranges[t]),
                                  out.minima ? std::bit_cast<std::uint32_t>(out.minima[t]) : 0u};
  out.finish(t, found);
}

// ---- groups: tiles of one row and 8 · 2ⁿ columns, n ≤ 5, that tile the rows exactly ----------

constexpr int kAhead = 4;  // vectors that a thread loads before it reduces them

template <class T, class Found>
__global__ void __launch_bounds__(kBlock)
    groups_kernel(Output out, const T* x, std::int64_t vectors, unsigned log_lanes) {
  const std::int64_t first = std::int64_t{blockIdx.x} * (kBlock * kAhead) + threadIdx.x;
  T in[kAhead][kColumns];
#pragma unroll
  for (int k = 0; k < kAhead; ++k) {
    const std::int64_t v = min(first + k * kBlock, vectors - 1);
    load_row<kColumns>(x + v * kColumns, in[k]);
  }
  Found f[kAhead];
#pragma unroll
  for (int k = 0; k < kAhead; ++k) {
    f[k].add(in[k]);
    reduce_lanes(f[k], 1u << log_lanes);
  }
  // Every lane of a group holds its kAhead results: each lane finishes another one.
  const unsigned lanes = 1u << log_lanes, lane = threadIdx.x & (lanes - 1);
  for (unsigned done = 0; done < kAhead; done += lanes) {
    const unsigned k = done + lane;
    static_assert(kAhead == 4);  // selected, since an index would put f in local memory
    const Found low = k & 1 ? f[1] : f[0], high = k & 1 ? f[3] : f[2], own = k & 2 ? high : low;
    const std::int64_t v = first + k * kBlock;  // of the group that lane k of it finishes
    if (k < kAhead && v < vectors) out.put(v >> log_lanes, own, true);
  }
}

// ---- columns: tiles of one column, a thread keeps eight -----------------------------------------

constexpr unsigned kSpan = 16;                   // threads across
constexpr std::uint32_t kDown = kBlock / kSpan;  // and down
constexpr int kColumnSteps = 8;
constexpr std::uint32_t kColumnRows = kColumnSteps * kDown;  // rows of a block

template <class T, class Found>
__global__ void __launch_bounds__(kBlock)
    columns_kernel(Output out, const T* x, std::uint32_t rows, std::int64_t cols,
                   std::uint32_t tile_rows, std::uint32_t parts, std::uint32_t across) {
  __shared__ std::uint32_t found[Found::kValues * kSpan * kColumns];
  const std::uint32_t down = blockIdx.x / across;
  const std::uint32_t tile_row = down / parts, part = down % parts;
  const unsigned x_thread = threadIdx.x % kSpan, y_thread = threadIdx.x / kSpan;
  for (unsigned i = threadIdx.x; i < Found::kValues * kSpan * kColumns; i += kBlock) found[i] = 0;
  __syncthreads();

  const std::int64_t col = (std::int64_t{blockIdx.x % across} * kSpan + x_thread) * kColumns;
  const std::uint32_t top = tile_row * tile_rows;
  const std::uint32_t first = top + part * kColumnRows;
  const std::uint32_t last = min(min(first + kColumnRows, top + tile_rows), rows);
  Found own[kColumns];
  if (col < cols) {
#pragma unroll
    for (int batch = 0; batch < kColumnSteps; batch += kAhead) {
      T in[kAhead][kColumns];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {  // past the end the last row once more
        const std::uint32_t row = ::min(first + y_thread + (batch + k) * kDown, last - 1);
        load_row<kColumns>(x + row * cols + col, in[k]);
      }
#pragma unroll
      for (int k = 0; k < kAhead; ++k)
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          const T one[1] = {in[k][j]};
          own[j].add(one);
        }
    }
#pragma unroll
    for (int j = 0; j < kColumns; ++j)
#pragma unroll
      for (int i = 0; i < Found::kValues; ++i)
        atomicMax(&found[(i * kSpan + x_thread) * kColumns + j], own[j].value(i));
  }
  __syncthreads();
  if (threadIdx.x >= kSpan * kColumns) return;
  const std::int64_t own_col = std::int64_t{blockIdx.x % across} * kSpan * kColumns + threadIdx.x;
  if (own_col >= cols) return;
  Found f;
#pragma unroll
  for (int i = 0; i < Found::kValues; ++i) f.set(i, found[i * kSpan * kColumns + threadIdx.x]);
  out.put(tile_row * cols + own_col, f, parts == 1);
}

// ---- any tiles -----------------------------------------------------------------------------

// Tiles cut into parts of at most part_rows x part_cols; a group of lanes_x · lanes_y threads (a
// power of two up to a warp, or a block) gathers one part.
struct Parts {
  std::uint32_t rows, cols, tile_rows, tile_cols;
  std::uint32_t part_rows, part_cols;
  Divider across, tiles_across, down;  // parts across a tile, tiles across, parts down a tile
  std::uint32_t lanes_x, lanes_y;
  std::uint32_t count;  // of parts
  bool whole;           // a part is a tile
};

template <class T, int V, class Found>
__global__ void __launch_bounds__(kBlock) parts_kernel(Output out, const T* x, const Parts p) {
  __shared__ std::uint32_t scratch[kWarp];
  const unsigned group = p.lanes_x * p.lanes_y;
  const std::uint32_t part = blockIdx.x * (kBlock / group) + threadIdx.x / group;
  const unsigned lane = threadIdx.x % group;
  Found f;
  std::int64_t tile = 0;
  if (part < p.count) {
    std::uint32_t rest = p.across.quotient(part);
    const std::uint32_t x_part = part - rest * p.across.divisor();
    std::uint32_t next = p.tiles_across.quotient(rest);
    const std::uint32_t tile_col = rest - next * p.tiles_across.divisor();
    rest = next;
    next = p.down.quotient(rest);
    const std::uint32_t y_part = rest - next * p.down.divisor(), tile_row = next;
    tile = std::int64_t{tile_row} * p.tiles_across.divisor() + tile_col;

    const std::uint32_t left = tile_col * p.tile_cols + x_part * p.part_cols;
    const std::uint32_t right = min(min(left + p.part_cols, (tile_col + 1) * p.tile_cols), p.cols);
    const std::uint32_t top = tile_row * p.tile_rows + y_part * p.part_rows;
    const std::uint32_t bottom = min(min(top + p.part_rows, (tile_row + 1) * p.tile_rows), p.rows);
    const std::uint32_t first_col = left + lane % p.lanes_x * V;
    std::uint32_t row = top + lane / p.lanes_x, col = first_col;
    const std::uint32_t wide = p.lanes_x * V;
    const std::uint32_t steps =
        first_col < right && row < bottom
            ? ((right - first_col + wide - 1) / wide) * ((bottom - row + p.lanes_y - 1) / p.lanes_y)
            : 0;
    for (std::uint32_t i = 0; i < steps; i += kAhead) {
      const T* from[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        from[k] = x + std::int64_t{row} * p.cols + col;
        // Past the end the last one once more.
        const bool more = i + k + 1 < steps, wraps = col + wide >= right;
        row += more && wraps ? p.lanes_y : 0;
        col = more ? (wraps ? first_col : col + wide) : col;
      }
      T in[kAhead][V];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) load_row<V>(from[k], in[k]);
#pragma unroll
      for (int k = 0; k < kAhead; ++k) f.add(in[k]);
    }
  }
  if (group < kBlock) {
    reduce_lanes(f, group);
  } else {
#pragma unroll
    for (int i = 0; i < Found::kValues; ++i)
      f.set(i, block_reduce(
                   f.value(i), 0u, [](std::uint32_t a, std::uint32_t b) { return ::max(a, b); },
                   scratch));
  }
  if (part < p.count && lane == 0) out.put(tile, f, p.whole);
}

// ---- choosing a kernel ---------------------------------------------------------------------

// Elements of a part that a block gathers, and up to which a warp gathers a tile.
constexpr std::int64_t kPartElements = 16384, kWarpElements = 8192;

Parts cut(std::int64_t rows, std::int64_t cols, Tile tile, int width, std::size_t element) {
  Parts p;
  p.rows = checked_extent(rows), p.cols = checked_extent(cols);
  p.tile_rows = checked_extent(tile.rows), p.tile_cols = checked_extent(tile.cols);
  const std::int64_t part_cols = std::min(tile.cols, kPartElements);
  const bool narrow = part_cols * static_cast<std::int64_t>(element) < 32;
  // Threads of neighbouring narrow tiles read neighbouring columns, each down its own.
  const std::int64_t most_rows = narrow ? kRowSegment : kPartElements / part_cols;
  const std::int64_t part_rows = std::min(tile.rows, std::max<std::int64_t>(1, most_rows));
  p.part_rows = static_cast<std::uint32_t>(part_rows);
  p.part_cols = static_cast<std::uint32_t>(part_cols);
  const unsigned group = part_rows * part_cols <= kWarpElements ? kWarp : kBlock;
  p.lanes_x = std::min(group, std::bit_ceil(static_cast<unsigned>(ceil_div(part_cols, width))));
  p.lanes_y = narrow ? 1 : group / p.lanes_x;

  const std::int64_t across = ceil_div(tile.cols, part_cols), down = ceil_div(tile.rows, part_rows);
  const std::int64_t tiles_across = ceil_div(cols, tile.cols);
  const std::int64_t count = across * down * tiles_across * ceil_div(rows, tile.rows);
  p.across = Divider(static_cast<std::uint32_t>(across));
  p.down = Divider(static_cast<std::uint32_t>(down));
  p.tiles_across = Divider(static_cast<std::uint32_t>(tiles_across));
  p.count = checked_extent(count);
  p.whole = across * down == 1;
  return p;
}

template <class T, class Found>
void gather(Tensor& ranges, Tensor& minima, const Tensor& x, const QuantSpec& spec) {
  const T* in = x.data<T>();
  std::int64_t rows = x.size(0), cols = x.size(1);
  Tile tile = spec.resolve(rows, cols);
  const std::int64_t tiles = ranges.numel();
  if (tiles == 1 && rows * cols < std::int64_t{1} << 31) {  // any shape will do
    tile = {1, rows * cols};
    cols = rows * cols, rows = 1;
  }
  const Output out{ranges.data<float>(), spec.symmetric ? nullptr : minima.data<float>(),
                   codec::RangeRule(spec)};
  const bool vectors = is_aligned(in, 16) && cols % kColumns == 0;
  const std::int64_t lanes = tile.cols / kColumns;
  if (vectors && tile.rows == 1 && lanes * kColumns == tile.cols && cols % tile.cols == 0 &&
      lanes <= kWarp && std::has_single_bit(static_cast<std::uint64_t>(lanes))) {
    const std::int64_t n = rows * cols / kColumns;
    launch(groups_kernel<T, Found>, static_cast<unsigned>(ceil_div(n, kBlock * kAhead)), kBlock, 0,
           out, in, n, std::countr_zero(static_cast<std::uint64_t>(lanes)));
    return;
  }
  const auto gathered = [&](bool whole, auto&& run) {
    for (float* p : {out.ranges, out.minima})
      if (!whole && p)
        NIBBLE_CUDA_CHECK(cudaMemsetAsync(p, 0, static_cast<std::size_t>(tiles) * 4, stream()));
    run();
    if (!whole)
      launch(finish_kernel, static_cast<unsigned>(ceil_div(tiles, kBlock)), kBlock, 0, out, tiles);
  };
  if (vectors && tile.cols == 1 && tile.rows >= kDown) {
    const std::int64_t parts = ceil_div(tile.rows, kColumnRows);
    const std::int64_t across = ceil_div(cols, std::int64_t{kSpan} * kColumns);
    const std::int64_t blocks = across * parts * ceil_div(rows, tile.rows);
    gathered(parts == 1, [&] {
      launch(columns_kernel<T, Found>, checked_extent(blocks), kBlock, 0, out, in,
             checked_extent(rows), cols, static_cast<std::uint32_t>(tile.rows),
             static_cast<std::uint32_t>(parts), static_cast<std::uint32_t>(across));
    });
    return;
  }
  const bool wide = vectors && (tile.cols == cols || tile.cols % kColumns == 0);
  const Parts p = cut(rows, cols, tile, wide ? kColumns : 1, sizeof(T));
  const auto blocks = static_cast<unsigned>(ceil_div(p.count, kBlock / (p.lanes_x * p.lanes_y)));
  gathered(p.whole, [&] {
    launch(wide ? parts_kernel<T, kColumns, Found> : parts_kernel<T, 1, Found>, blocks, kBlock, 0,
           out, in, p);
  });
}

}  // namespace

void quant_ranges(Tensor& ranges, Tensor& minima, const Tensor& x, const QuantSpec& spec) {
  using enum Calibration::Kind;
  if (x.numel() == 0) return;
  if (spec.symmetric && spec.calibration.kind == AbsMean) return mean_ranges(ranges, x, spec);
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "quantize", T,
                           if (spec.symmetric) gather<T, Largest<T>>(ranges, minima, x, spec);
                           else gather<T, Extremes<T>>(ranges, minima, x, spec));
  if (spec.symmetric && spec.calibration.kind == Mse) search_ranges(ranges, x, spec);
}

}  // namespace nibble::cuda
