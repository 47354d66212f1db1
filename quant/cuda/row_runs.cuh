// Runs along rows in one pass: range, step and codes (or the values of codes) while the run lies in
// registers. Reads 2 or 4 bytes an element and writes 1 (2 or 4), where ranges, scales and codes
// apart read x twice; about 9 operations an element, 17 with noise, so memory is the roof of the
// first and instructions are that of the second. Measured by `nibble bench kernels`.
#pragma once

#include <cstring>

#include "quant/cuda/one_pass.cuh"
#include "quant/kernels.h"

namespace nibble::cuda::one_pass {

constexpr unsigned kRowBlock = 256;

// What is encoded: x as it is. GeluValues: what GELU makes of it.
struct RowValues {
  template <class T>
  __device__ static void make(T (&)[8]) {}
};

// A run that is not usual: `vectors` of them, kLanes apart. They are read again, so that the usual
// runs keep their registers.
template <class Out, class T, int kLanes, Quotients kQuotients, bool kStochastic, class Codes,
          class Values>
__device__ __noinline__ void code_unusual(Out* out, const T* x, std::int64_t first, int vectors,
                                          float found, const RuleOf<Codes>& rule,
                                          const KeyedDraws::Stream draws) {
  const Steps<1> step{{found}};
  Division<kQuotients, 1> division;
  division.set(step);
  for (int i = 0; i < vectors; ++i) {
    const std::int64_t at = (first + i * kLanes) * 8;
    T in[8];
    load_row<8>(x + at, in);
    Values::make(in);
    float values[8];
    widen(in, values);
    std::uint32_t noise[8] = {};
    if constexpr (kStochastic) draw_row<8>(draws, at, noise);
    Out result[8];
    apply<Out, kStochastic>(rule, step, division, values, noise, result);
    store_row<8>(out + at, result);
  }
}

// Zeros change no maximum. Whole words are chosen: nvcc would choose bf16 numbers one by one.
template <class T>
__device__ void load_or_zeros(const T* p, bool valid, T (&to)[8]) {
  constexpr int kPieces = 8 * sizeof(T) / 16;
  uint4 pieces[kPieces] = {};
#pragma unroll
  for (int k = 0; k < kPieces; ++k)
    if (valid) pieces[k] = reinterpret_cast<const uint4*>(p)[k];
  std::memcpy(to, pieces, sizeof to);
}

// kLanes neighbours hold a run of `vectors` vectors of 8: lane l has the vectors l + i · kLanes,
// i < kEach. The more a thread has, the fewer lanes find the same step.
template <class Out, class T, int kLanes, int kEach, Quotients kQuotients, bool kStochastic,
          class Codes, class Values>
__global__ void __launch_bounds__(kRowBlock)
    row_runs_kernel(Out* out, float* steps, const T* x, std::int64_t runs, int vectors,
                    const __grid_constant__ RuleOf<Codes> rule,
                    const __grid_constant__ KeyedDraws keys) {
  constexpr int kBlockRuns = static_cast<int>(kRowBlock) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const std::int64_t run =
      std::int64_t{blockIdx.x} * kBlockRuns + static_cast<int>(threadIdx.x) / kLanes;
  const int own = run < runs ? (vectors - lane + kLanes - 1) / kLanes : 0;  // vectors
  const std::int64_t first = run * vectors + lane;
  const KeyedDraws::Stream draws = keys.stream(kStochastic);
  T in[kEach][8];
  const T* const from = x + first * 8;
#pragma unroll
  for (int i = 0; i < kEach; ++i) load_or_zeros(from + i * kLanes * 8, i < own, in[i]);
#pragma unroll
  for (int i = 0; i < kEach; ++i) Values::make(in[i]);  // of zero it is zero
  extremes::Largest<T> largest;
#pragma unroll
  for (int i = 0; i < kEach; ++i) largest.add(in[i]);
  extremes::reduce_lanes(largest, kLanes);
  const Scale scale = rule.template scale_of<kQuotients>(largest.most);
  if (steps && lane == 0 && own > 0) steps[run] = scale.step;
  if (!scale.usual())
    return code_unusual<Out, T, kLanes, kQuotients, kStochastic, Codes, Values>(
        out, x, first, own, scale.step, rule, draws);
  Out* const to = out + first * 8;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (i >= own) return;
    Philox noise{};
    if constexpr (kStochastic) noise = draws.block(static_cast<std::uint64_t>(first + i * kLanes));
    float y[8];
    widen(in[i], y);
#pragma unroll
    for (int j = 0; j < 8; ++j)
      y[j] = usual_quotient<kQuotients, Codes::kSigned>(y[j], scale.factor, scale.inverse);
    if constexpr (std::is_same_v<Out, std::uint8_t>) {
      std::uint32_t words[2];
      rule.coder.template codes<kStochastic>(y, noise, words);
      store_row<2>(reinterpret_cast<std::uint32_t*>(to + i * kLanes * 8), words);
    } else {
      float values[8];
      rule.coder.template values<kStochastic>(y, noise, values);
#pragma unroll
      for (int j = 0; j < 8; ++j) values[j] = codec::mul(values[j], scale.step);
      store_values(to + i * kLanes * 8, values);
    }
  }
}

template <class Out, class T, int kLanes, int kEach, Quotients kQuotients, bool kStochastic,
          class Codes, class Values = RowValues>
void run(Out* out, float* steps, const Tensor& x, int vectors, const QuantSpec& spec,
         const RngKey& key) {
  const std::int64_t runs = x.numel() / (std::int64_t{vectors} * 8);
  launch(row_runs_kernel<Out, T, kLanes, kEach, kQuotients, kStochastic, Codes, Values>,
         static_cast<unsigned>(ceil_div(runs, kRowBlock / kLanes)), kRowBlock, 0, out, steps,
         x.data<T>(), runs, vectors, RuleOf<Codes>(spec), KeyedDraws(key));
}

// Calls fn(lanes, each) with the constants of runs of `vectors` vectors; below 32 those are a power
// of two (has_row_runs).
template <class F>
void with_lanes(int vectors, F&& fn) {
  const auto with = [&]<int kLanes, int kEach>() {
    fn(std::integral_constant<int, kLanes>{}, std::integral_constant<int, kEach>{});
  };
  if (vectors == 1) return with.template operator()<1, 1>();
  if (vectors == 2) return with.template operator()<1, 2>();
  if (vectors == 4) return with.template operator()<1, 4>();
  if (vectors == 8) return with.template operator()<2, 4>();
  if (vectors == 16) return with.template operator()<4, 4>();
  if (vectors == 32) return with.template operator()<8, 4>();
  if (vectors <= 96) return with.template operator()<32, 3>();
  if (vectors <= 192) return with.template operator()<32, 6>();
  if (vectors <= 288) return with.template operator()<32, 9>();
  if (vectors <= 384) return with.template operator()<32, 12>();
  with.template operator()<32, 16>();
}

inline int run_vectors(const Tensor& x, const QuantSpec& spec) {
  return static_cast<int>(spec.resolve(x.size(0), x.size(1)).cols / 8);
}

// Float8 codes, nearest by division.
template <class Out, class T>
void float8_row_runs(Out* out, float* steps, const Tensor& x, const QuantSpec& spec);

}  // namespace nibble::cuda::one_pass
