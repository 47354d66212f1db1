// Runs along rows in one pass: range, step and codes (or the values of codes) while the run lies in
// registers. Reads 2 or 4 bytes an element and writes 1 (2 or 4), where ranges, scales and codes
// apart read x twice; about 20 operations an element, 30 with noise.
#include "quant/cuda/one_pass.cuh"
#include "quant/kernels.h"

namespace nibble::cuda {
namespace {

using namespace one_pass;

constexpr unsigned kBlock = 256;

// `lanes` neighbours (a power of two) hold a run of `vectors` vectors of 8, lane l the vectors
// l + i · lanes, i < kEach. kRuns runs are under way at once.
template <class Out, class T, int kEach, int kRuns, Quotients kQuotients, bool kStochastic>
__global__ void __launch_bounds__(kBlock)
    row_runs_kernel(Out* out, float* steps, const T* x, std::int64_t runs, std::uint32_t vectors,
                    unsigned log_lanes, const __grid_constant__ Rule rule, const RngKey key) {
  const unsigned lanes = 1u << log_lanes, lane = threadIdx.x & (lanes - 1);
  const std::int64_t stride = std::int64_t{gridDim.x} * (kBlock >> log_lanes);
  const std::int64_t own =
      std::int64_t{blockIdx.x} * (kBlock >> log_lanes) + (threadIdx.x >> log_lanes);
  const Draws16 draws(key, kStochastic ? key.step_value() : 0);
  T in[kRuns][kEach][8];
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    const std::int64_t run = min(own + r * stride, runs - 1);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      // Past the end the last vector once more: it changes no maximum.
      const std::uint32_t v = min(lane + i * lanes, vectors - 1);
      load_row<8>(x + (run * vectors + v) * 8, in[r][i]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    const std::int64_t run = own + r * stride;
    extremes::Largest<T> largest;
#pragma unroll
    for (int i = 0; i < kEach; ++i) largest.add(in[r][i]);
    extremes::reduce_lanes(largest, lanes);
    const Steps<1> step{{rule.of_largest(largest.most)}};
    if (steps && lane == 0 && run < runs) steps[run] = step.step_[0];
    Division<kQuotients, 1> division;
    division.set(step);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const std::uint32_t v = lane + i * lanes;
      if (v >= vectors || run >= runs) break;
      const std::int64_t at = (run * vectors + v) * 8;
      float values[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) values[j] = to_float(in[r][i][j]);
      std::uint32_t noise[8] = {};
      if constexpr (kStochastic) draw_row<8>(draws, at, noise);
      Out result[8];
      apply<Out, kStochastic>(rule, step, division, values, noise, result);
      store_row<8>(out + at, result);
    }
  }
}

template <class Out, class T, int kEach, int kRuns>
void run(Out* out, float* steps, const Tensor& x, std::uint32_t vectors, unsigned log_lanes,
         const QuantSpec& spec, const RngKey& key) {
  const std::int64_t runs = x.numel() / (std::int64_t{vectors} * 8);
  const std::int64_t blocks = ceil_div(ceil_div(runs, kRuns), kBlock >> log_lanes);
  with_options(spec, [&](auto quotients, auto stochastic) {
    launch(row_runs_kernel<Out, T, kEach, kRuns, decltype(quotients)::value,
                           decltype(stochastic)::value>,
           dim3(static_cast<unsigned>(blocks)), dim3(kBlock), 0, out, steps, x.data<T>(), runs,
           vectors, log_lanes, Rule(spec), key);
  });
}

template <class Out, class T>
void row_runs(Out* out, float* steps, const Tensor& x, const QuantSpec& spec, const RngKey& key) {
  const auto vectors = static_cast<std::uint32_t>(spec.resolve(x.size(0), x.size(1)).cols / 8);
  unsigned log_lanes = 5;
  while (log_lanes > 0 && (1u << log_lanes) > vectors) --log_lanes;
  const std::uint32_t each = (vectors + (1u << log_lanes) - 1) >> log_lanes;
  if (each == 1) return run<Out, T, 1, 4>(out, steps, x, vectors, log_lanes, spec, key);
  if (each <= 3) return run<Out, T, 3, 2>(out, steps, x, vectors, log_lanes, spec, key);
  if (each <= 6) return run<Out, T, 6, 1>(out, steps, x, vectors, log_lanes, spec, key);
  if (each <= 9) return run<Out, T, 9, 1>(out, steps, x, vectors, log_lanes, spec, key);
  if (each <= 12) return run<Out, T, 12, 1>(out, steps, x, vectors, log_lanes, spec, key);
  run<Out, T, 16, 1>(out, steps, x, vectors, log_lanes, spec, key);
}

}  // namespace

void quant_row_runs(Tensor& codes, Tensor& scales, const Tensor& x, const QuantSpec& spec,
                    const RngKey& key) {
  auto* const out = reinterpret_cast<std::uint8_t*>(codes.raw());
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "quantize", T,
                           (row_runs<std::uint8_t, T>(out, scales.data<float>(), x, spec, key)));
}

void quant_round_row_runs(Tensor& y, const Tensor& x, const QuantSpec& spec, const RngKey& key) {
  NIBBLE_CUDA_FLOAT_SWITCH(x.dtype(), "fake_quantize", T,
                           (row_runs<T, T>(y.data<T>(), nullptr, x, spec, key)));
}

}  // namespace nibble::cuda
