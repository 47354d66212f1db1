// Sums over tiles in f64, in the order that kernels.h states, so that the bits are the CPU's: a
// row's part of a tile from left to right, then rows, then segments of rows. One thread follows
// each order; rows, segments and tiles run in parallel. Bound by the latency of f64 additions:
// AbsMean and Mse are calibrations of stored weights, not of every step.
#include "quant/cuda/sums.h"

#include "quant/cuda/coder.cuh"
#include "quant/cuda/tile_steps.cuh"
#include "quant/kernels.h"
#include "quant/scale_math.h"

namespace nibble::cuda {
namespace {

constexpr unsigned kBlock = 128;

// Extents of tiles and how many sums stand between elements and tiles.
struct Sums {
  std::int64_t rows, cols, tile_rows, tile_cols;  // of the matrix, of a tile
  std::int64_t down, across;                      // tiles
  std::int64_t segments;                          // of a tile

  Sums(const QuantSpec& spec, const Tensor& x, const Tensor& ranges)
      : rows(x.size(0)), cols(x.size(1)), down(ranges.size(0)), across(ranges.size(1)) {
    const Tile tile = spec.resolve(rows, cols);
    tile_rows = tile.rows, tile_cols = tile.cols;
    segments = ceil_div(tile_rows, kRowSegment);
  }
  NIBBLE_HD std::int64_t row_end(std::int64_t tile_row) const {
    const std::int64_t end = (tile_row + 1) * tile_rows;
    return end < rows ? end : rows;
  }
  NIBBLE_HD std::int64_t col_end(std::int64_t tile_col) const {
    const std::int64_t end = (tile_col + 1) * tile_cols;
    return end < cols ? end : cols;
  }
};

// ---- what is summed ------------------------------------------------------------------------

struct Magnitudes {
  struct Shared {};
  struct Tile {};
  __device__ void prepare(Shared&) const {}
  __device__ Tile tile(std::int64_t) const { return {}; }
  __device__ double term(const Shared&, const Tile&, float x) const {
    return fabs(static_cast<double>(x));
  }
};

// Squared errors of x rounded to nearest with the step of candidate c of n.
template <class Coder, class Form>
struct Errors {
  using Shared = typename Coder::Shared;
  struct Tile {
    float step, factor;
  };
  Coder coder;
  codec::StepRule rule;
  const float* largest;
  int candidate, candidates;
  bool divides;

  __device__ void prepare(Shared& s) const { coder.template prepare<Coding::Round, false>(s); }
  __device__ Tile tile(std::int64_t t) const {
    const float range = codec::mse_candidate(candidate, candidates, largest[t]);
    const float step = Form::decode(Form::encode(rule.step(range, 0.0f, 0.0f), 1.0f), 1.0f);
    return {step, divides ? codec::divisor_of(step) : codec::multiplier_of(step)};
  }
  __device__ double term(const Shared& s, const Tile& t, float x) const {
    float y[1] = {divides ? codec::div(x, t.factor) : codec::mul(x, t.factor)};
    const std::uint32_t none[1] = {};
    coder.template round<false>(s, y, none, y);
    const double e = static_cast<double>(x) - static_cast<double>(codec::mul(y[0], t.step));
    return __dmul_rn(e, e);
  }
};

// ---- sums ----------------------------------------------------------------------------------

// sums[row, tile_col]: each row's part of each tile.
template <class T, class Terms>
__global__ void __launch_bounds__(kBlock)
    row_sums_kernel(double* sums, const T* x, const Sums s, const __grid_constant__ Terms terms) {
  __shared__ typename Terms::Shared shared;
  terms.prepare(shared);
  const std::int64_t count = s.rows * s.across, stride = std::int64_t{gridDim.x} * kBlock;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kBlock + threadIdx.x; i < count; i += stride) {
    const std::int64_t row = i / s.across, tile_col = i % s.across, end = s.col_end(tile_col);
    const auto tile = terms.tile(row / s.tile_rows * s.across + tile_col);
    double sum = 0;
#pragma unroll 4
    for (std::int64_t col = tile_col * s.tile_cols; col < end; ++col)
      sum = __dadd_rn(sum, terms.term(shared, tile, to_float(x[row * s.cols + col])));
    sums[i] = sum;
  }
}

// sums[tile_row, segment, tile_col] of each segment's rows.
__global__ void __launch_bounds__(kBlock)
    segment_sums_kernel(double* sums, const double* row_sums, const Sums s) {
  const std::int64_t count = s.down * s.segments * s.across;
  const std::int64_t stride = std::int64_t{gridDim.x} * kBlock;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kBlock + threadIdx.x; i < count; i += stride) {
    const std::int64_t tile_col = i % s.across, segment = i / s.across % s.segments;
    const std::int64_t tile_row = i / s.across / s.segments;
    const std::int64_t first = tile_row * s.tile_rows + segment * kRowSegment;
    const std::int64_t most = s.row_end(tile_row);
    const std::int64_t end = first + kRowSegment < most ? first + kRowSegment : most;
    double sum = 0;
#pragma unroll 8
    for (std::int64_t row = first; row < end; ++row)
      sum = __dadd_rn(sum, row_sums[row * s.across + tile_col]);
    sums[i] = sum;
  }
}

// Calls finish(tile, sum of its segments, elements).
template <class Finish>
__global__ void __launch_bounds__(kBlock)
    finish_kernel(const double* sums, const Sums s, const Finish finish) {
  const std::int64_t count = s.down * s.across, stride = std::int64_t{gridDim.x} * kBlock;
  for (std::int64_t t = std::int64_t{blockIdx.x} * kBlock + threadIdx.x; t < count; t += stride) {
    const std::int64_t tile_row = t / s.across, tile_col = t % s.across;
    const double* part = sums + tile_row * s.segments * s.across + tile_col;
    double sum = part[0];
#pragma unroll 8
    for (std::int64_t segment = 1; segment < s.segments; ++segment)
      sum = __dadd_rn(sum, part[segment * s.across]);
    finish(t, sum,
           (s.row_end(tile_row) - tile_row * s.tile_rows) *
               (s.col_end(tile_col) - tile_col * s.tile_cols));
  }
}

// Buffers of one reduction, kept for those that follow it.
struct Buffers {
  Tensor rows, segments;
  Buffers(const Sums& s, Device device) {
    const auto doubles = [&](std::int64_t n) { return Tensor::empty({n}, DType::F64, device); };
    rows = doubles(s.rows * s.across);
    if (s.tile_rows > 1) segments = doubles(s.down * s.segments * s.across);
  }
};

template <class Terms, class Finish>
void sum_tiles(const Tensor& x, const Sums& s, Buffers& buffers, const Terms& terms,
               const Finish& finish) {
  double* sums = buffers.rows.data<double>();
  NIBBLE_CUDA_FLOAT_SWITCH(
      x.dtype(), "quantize", T,
      launch(row_sums_kernel<T, Terms>, grid_for(s.rows * s.across, kBlock, 16), kBlock, 0, sums,
             x.data<T>(), s, terms));
  if (s.tile_rows > 1) {
    double* parts = buffers.segments.data<double>();
    launch(segment_sums_kernel, grid_for(buffers.segments.numel(), kBlock, 16), kBlock, 0, parts,
           sums, s);
    sums = parts;
  }
  launch(finish_kernel<Finish>, grid_for(s.down * s.across, kBlock, 16), kBlock, 0, sums, s,
         finish);
}

struct MeanFinish {
  float* ranges;
  codec::RangeRule rule;
  __device__ void operator()(std::int64_t tile, double sum, std::int64_t count) const {
    ranges[tile] = rule.of_mean(sum, count);
  }
};

// Keeps the candidate of the least error, the larger one at a tie; NaN never wins.
struct SearchFinish {
  float* ranges;
  double* best;
  const float* largest;
  int candidate, candidates;
  __device__ void operator()(std::int64_t tile, double error, std::int64_t) const {
    if (!(error <= (candidate == 1 ? static_cast<double>(HUGE_VAL) : best[tile]))) {
      if (candidate == 1) best[tile] = HUGE_VAL;
      return;
    }
    best[tile] = error;
    ranges[tile] = codec::mse_candidate(candidate, candidates, largest[tile]);
  }
};

}  // namespace

void mean_ranges(Tensor& ranges, const Tensor& x, const QuantSpec& spec) {
  const Sums s(spec, x, ranges);
  Buffers buffers(s, x.device());
  sum_tiles(x, s, buffers, Magnitudes{}, MeanFinish{ranges.data<float>(), codec::RangeRule(spec)});
}

void search_ranges(Tensor& ranges, const Tensor& x, const QuantSpec& spec) {
  const Sums s(spec, x, ranges);
  Buffers buffers(s, x.device());
  const Tensor largest = ranges.clone();
  Tensor best = Tensor::empty({ranges.numel()}, DType::F64, x.device());
  const auto candidates = static_cast<int>(spec.calibration.value);
  // The search looks at steps alone: a floor, and a global scale that all tiles share, come later.
  const ScaleType form = spec.scale == ScaleType::TwoLevel ? ScaleType::F32 : spec.scale;
  with_coder(spec.format, [&](const auto& coder) {
    codec::with_scale_type(form, [&](auto stored) {
      using Terms = Errors<std::decay_t<decltype(coder)>, decltype(stored)>;
      for (int c = 1; c <= candidates; ++c)
        sum_tiles(x, s, buffers,
                  Terms{coder, codec::StepRule(spec), largest.data<float>(), c, candidates,
                        spec.scaling == Scaling::Divide},
                  SearchFinish{ranges.data<float>(), best.data<double>(), largest.data<float>(), c,
                               candidates});
    });
  });
}

}  // namespace nibble::cuda
