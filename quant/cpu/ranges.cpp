#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "quant/cpu/coder.h"
#include "quant/cpu/rows.h"
#include "quant/cpu/tile_params.h"
#include "quant/kernels.h"
#include "quant/scale_math.h"
#include "quant/scales.h"

namespace nibble::cpu {
namespace {

// The tiles of a matrix, their rows cut into segments that are gathered in parallel.
struct Grid {
  Grid(const QuantSpec& spec, const Tensor& x, const Tensor& ranges)
      : rows(x.size(0)),
        cols(x.size(1)),
        tile(spec.resolve(rows, cols)),
        tile_rows(ranges.size(0)),
        tile_cols(ranges.size(1)),
        segments((tile.rows + kRowSegment - 1) / kRowSegment) {}
  std::int64_t rows, cols;
  Tile tile;
  std::int64_t tile_rows, tile_cols, segments;
};

// One T a tile: add_row(T* tiles_of_the_row, row) over the rows of each segment, then the segments
// merged in order.
template <class T, class AddRow, class Merge>
std::vector<T> gather(const Grid& g, T init, AddRow&& add_row, Merge&& merge) {
  const std::int64_t items = g.tile_rows * g.segments;
  std::vector<T> parts(static_cast<std::size_t>(items * g.tile_cols), init);
  const std::int64_t item_rows = std::min(g.tile.rows, kRowSegment);
  const std::int64_t grain = std::max<std::int64_t>(1, kChunkElements / (item_rows * g.cols));
  parallel_for(items, grain, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t item = first; item < last; ++item) {
      const std::int64_t tile_row = item / g.segments;
      const std::int64_t end = std::min((tile_row + 1) * g.tile.rows, g.rows);
      const std::int64_t begin = tile_row * g.tile.rows + item % g.segments * kRowSegment;
      T* own = parts.data() + item * g.tile_cols;
      for (std::int64_t row = begin; row < std::min(begin + kRowSegment, end); ++row)
        add_row(own, row);
    }
  });
  if (g.segments == 1) return parts;
  std::vector<T> totals(static_cast<std::size_t>(g.tile_rows * g.tile_cols));
  for (std::int64_t t = 0; t < g.tile_rows * g.tile_cols; ++t) {
    const T* part = parts.data() + t / g.tile_cols * g.segments * g.tile_cols + t % g.tile_cols;
    T total = part[0];
    for (std::int64_t s = 1; s < g.segments; ++s) total = merge(total, part[s * g.tile_cols]);
    totals[static_cast<std::size_t>(t)] = total;
  }
  return totals;
}

// Runs of a row that lie in one tile and one piece: fn(tile, x, n).
template <class F>
void for_runs(const Grid& g, const RowReader& reader, std::int64_t row, F&& fn) {
  float buffer[kPiece];
  for (std::int64_t col = 0; col < g.cols; col += kPiece) {
    const std::int64_t n = std::min(kPiece, g.cols - col);
    const float* x = reader.read(row, col, n, buffer);
    for (std::int64_t j = 0; j < n;) {
      const std::int64_t t = (col + j) / g.tile.cols;
      const std::int64_t length = std::min((t + 1) * g.tile.cols - (col + j), n - j);
      fn(t, x + j, length);
      j += length;
    }
  }
}
// The same for tiles of one column: fn(first column, x, n), one tile an element.
template <class F>
void for_columns(const Grid& g, const RowReader& reader, std::int64_t row, F&& fn) {
  float buffer[kPiece];
  for (std::int64_t col = 0; col < g.cols; col += kPiece) {
    const std::int64_t n = std::min(kPiece, g.cols - col);
    fn(col, reader.read(row, col, n, buffer), n);
  }
}

// Magnitudes compare as integers, with which NaN and infinities win and order does not matter.
std::uint32_t magnitude(float x) { return std::bit_cast<std::uint32_t>(x) & 0x7fffffffu; }

std::vector<std::uint32_t> abs_max(const Grid& g, const RowReader& reader) {
  const auto merge = [](std::uint32_t a, std::uint32_t b) { return std::max(a, b); };
  if (g.tile.cols == 1)
    return gather<std::uint32_t>(
        g, 0,
        [&](std::uint32_t* tiles, std::int64_t row) {
          for_columns(g, reader, row, [&](std::int64_t col, const float* x, std::int64_t n) {
            std::uint32_t* own = tiles + col;
            for (std::int64_t j = 0; j < n; ++j) own[j] = std::max(own[j], magnitude(x[j]));
          });
        },
        merge);
  return gather<std::uint32_t>(
      g, 0,
      [&](std::uint32_t* tiles, std::int64_t row) {
        for_runs(g, reader, row, [&](std::int64_t t, const float* x, std::int64_t n) {
          std::uint32_t most = tiles[t];
          for (std::int64_t j = 0; j < n; ++j) most = std::max(most, magnitude(x[j]));
          tiles[t] = most;
        });
      },
      merge);
}

// Of codec::ordered_bits.
struct Extremes {
  std::uint32_t low = std::numeric_limits<std::uint32_t>::max(), high = 0;
};
Extremes merged(const Extremes& a, const Extremes& b) {
  return {std::min(a.low, b.low), std::max(a.high, b.high)};
}

void min_max(Tensor& ranges, Tensor& minima, const Grid& g, const RowReader& reader,
             const QuantSpec& spec) {
  const auto add = [](Extremes& e, float x) {
    const std::uint32_t key = codec::ordered_bits(x);
    e = {std::min(e.low, key), std::max(e.high, key)};
  };
  const auto found = gather<Extremes>(
      g, {},
      [&](Extremes* tiles, std::int64_t row) {
        if (g.tile.cols == 1)
          return for_columns(g, reader, row, [&](std::int64_t col, const float* x, std::int64_t n) {
            for (std::int64_t j = 0; j < n; ++j) add(tiles[col + j], x[j]);
          });
        for_runs(g, reader, row, [&](std::int64_t t, const float* x, std::int64_t n) {
          Extremes e = tiles[t];
          for (std::int64_t j = 0; j < n; ++j) add(e, x[j]);
          tiles[t] = e;
        });
      },
      merged);
  const codec::RangeRule rule(spec);
  float* range = ranges.data<float>();
  float* minimum = minima.data<float>();
  for (std::size_t t = 0; t < found.size(); ++t) {
    const float low = codec::from_ordered(found[t].low);
    range[t] = rule.of_extremes(low, codec::from_ordered(found[t].high));
    minimum[t] = rule.minimum(low);
  }
}

double plus(double a, double b) { return a + b; }

std::vector<double> abs_sums(const Grid& g, const RowReader& reader) {
  return gather<double>(
      g, 0.0,
      [&](double* tiles, std::int64_t row) {
        // A tile's part of the row is summed by itself first; runs of one tile are adjacent.
        std::int64_t tile = 0;
        double sum = 0;
        for_runs(g, reader, row, [&](std::int64_t t, const float* x, std::int64_t n) {
          if (t != tile) {
            tiles[tile] += sum;
            tile = t;
            sum = 0;
          }
          for (std::int64_t j = 0; j < n; ++j) sum += std::fabs(static_cast<double>(x[j]));
        });
        tiles[tile] += sum;
      },
      plus);
}

std::int64_t tile_size(const Grid& g, std::int64_t t) {
  const std::int64_t r = t / g.tile_cols, c = t % g.tile_cols;
  return (std::min((r + 1) * g.tile.rows, g.rows) - r * g.tile.rows) *
         (std::min((c + 1) * g.tile.cols, g.cols) - c * g.tile.cols);
}

// Squared errors of the tiles when x is rounded to nearest with these steps.
std::vector<double> squared_errors(const Grid& g, const Tensor& x, const Tensor& steps,
                                   const QuantSpec& spec) {
  const RowReader reader(x);
  const Coder coder(spec);
  const TileParams unloaded(spec, g.rows, g.cols, steps, Tensor());
  return gather<double>(
      g, 0.0,
      [&](double* tiles, std::int64_t row) {
        thread_local std::vector<float> original, decoded;
        original.resize(static_cast<std::size_t>(g.cols));
        decoded.resize(static_cast<std::size_t>(g.cols));
        const float* in = reader.read(row, 0, g.cols, original.data());
        TileParams params = unloaded;
        params.select(row);
        params.divide(in, 0, g.cols, decoded.data());
        coder.round(decoded.data(), g.cols, nullptr, decoded.data());
        params.rescale(decoded.data(), 0, g.cols, decoded.data());
        for (std::int64_t t = 0; t < g.tile_cols; ++t) {
          double sum = 0;
          const std::int64_t end = std::min((t + 1) * g.tile.cols, g.cols);
          for (std::int64_t j = t * g.tile.cols; j < end; ++j) {
            const double e = static_cast<double>(in[j]) -
                             static_cast<double>(decoded[static_cast<std::size_t>(j)]);
            sum += e * e;
          }
          tiles[t] += sum;
        }
      },
      plus);
}

// ranges holds the largest magnitudes; each is replaced by the candidate of the least error, the
// larger one at a tie.
void search_ranges(Tensor& ranges, const Tensor& x, const Grid& g, const QuantSpec& spec) {
  QuantSpec plain = spec;
  plain.rounding = Rounding::Nearest;
  plain.floor = {};
  if (plain.scale == ScaleType::TwoLevel) plain.scale = ScaleType::F32;
  const Tensor largest = ranges.clone();
  const auto candidates = static_cast<int>(spec.calibration.value);
  const auto tiles = static_cast<std::size_t>(ranges.numel());
  std::vector<double> best(tiles, std::numeric_limits<double>::infinity());
  Tensor candidate = Tensor::empty(ranges.shape());
  for (int c = 1; c <= candidates; ++c) {
    for (std::size_t t = 0; t < tiles; ++t)
      candidate.data<float>()[t] = codec::mse_candidate(c, candidates, largest.data<float>()[t]);
    Scales scales = Scales::empty(plain, g.rows, g.cols, kCpu);
    quant_scales(scales.stored, scales.zeros, scales.global, candidate, Tensor(), plain);
    const auto errors = squared_errors(g, x, scales.steps(plain), plain);
    for (std::size_t t = 0; t < tiles; ++t) {
      if (!(errors[t] <= best[t])) continue;
      best[t] = errors[t];
      ranges.data<float>()[t] = candidate.data<float>()[t];
    }
  }
}

}  // namespace

void quant_ranges(Tensor& ranges, Tensor& minima, const Tensor& x, const QuantSpec& spec) {
  using enum Calibration::Kind;
  const Grid g(spec, x, ranges);
  const RowReader reader(x);
  if (!spec.symmetric) return min_max(ranges, minima, g, reader, spec);
  const codec::RangeRule rule(spec);
  float* range = ranges.data<float>();
  if (spec.calibration.kind == AbsMean) {
    const auto sums = abs_sums(g, reader);
    for (std::size_t t = 0; t < sums.size(); ++t)
      range[t] = rule.of_mean(sums[t], tile_size(g, static_cast<std::int64_t>(t)));
    return;
  }
  const auto found = abs_max(g, reader);
  for (std::size_t t = 0; t < found.size(); ++t)
    range[t] = rule.of_largest(std::bit_cast<float>(found[t]));
  if (spec.calibration.kind == Mse) search_ranges(ranges, x, g, spec);
}

}  // namespace nibble::cpu
