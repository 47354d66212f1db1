// Parts of the one-pass quantizers: from a run's largest magnitude to its step, from values to
// codes.
#pragma once

#include "quant/cuda/codes.cuh"
#include "quant/cuda/extremes.cuh"

namespace nibble::cuda::one_pass {

// What a spec asks of a run; symmetric integers with f32 steps (quant/one_pass.cpp).
struct Rule {
  codec::RangeRule range;
  codec::StepRule step;
  IntCoder coder;

  explicit Rule(const QuantSpec& spec) : range(spec), step(spec), coder(spec.format) {}
  __device__ float of_largest(std::uint32_t most) const {
    return step.step(range.of_largest(std::bit_cast<float>(most)), 0.0f, step.least(0.0f));
  }
};

// N steps as Division sees them.
template <int N>
struct Steps {
  float step_[N];
  __device__ float step(int j) const { return step_[j % N]; }
  __device__ float zero(int) const { return 0; }
};

// Values to codes, or to the values of their codes; `Out` as in codes.cuh.
template <class Out, bool kStochastic, int N, Quotients kQuotients, int V>
__device__ void apply(const Rule& rule, const Steps<N>& steps,
                      const Division<kQuotients, N>& division, const float (&x)[V],
                      const std::uint32_t (&noise)[V], Out (&out)[V]) {
  float y[V];
  division.template operator()<false>(steps, x, y);
  IntCoder::Shared none;
  if constexpr (std::is_same_v<Out, std::uint8_t>) {
    std::uint32_t codes[V];
    rule.coder.template encode<kStochastic>(none, y, noise, codes);
#pragma unroll
    for (int j = 0; j < V; ++j) out[j] = static_cast<std::uint8_t>(codes[j]);
  } else {
    rule.coder.template round<kStochastic>(none, y, noise, y);
#pragma unroll
    for (int j = 0; j < V; ++j) out[j] = from_float<Out>(codec::mul(y[j], steps.step(j)));
  }
}

// Calls fn(quotients, stochastic) with the constants of a spec.
template <class F>
void with_options(const QuantSpec& spec, F&& fn) {
  using Reciprocal = std::integral_constant<Quotients, Quotients::Reciprocal>;
  using Divide = std::integral_constant<Quotients, Quotients::Divide>;
  const bool noise = spec.rounding == Rounding::Stochastic;
  if (spec.scaling == Scaling::Reciprocal)
    noise ? fn(Reciprocal{}, std::true_type{}) : fn(Reciprocal{}, std::false_type{});
  else
    noise ? fn(Divide{}, std::true_type{}) : fn(Divide{}, std::false_type{});
}

}  // namespace nibble::cuda::one_pass
