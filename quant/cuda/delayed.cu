// Delayed scaling. quant_encode_tracked moves 2 or 4 bytes an element in and 1 out, in one pass,
// and computes what code_kernel (codes.cuh) does and a maximum: bound by memory, with stochastic
// rounding by Philox. The other kernels are a thread or a warp each: latency, no traffic.
#include "quant/cuda/codes.cuh"
#include "quant/cuda/extremes.cuh"

namespace nibble::cuda {
namespace {

constexpr unsigned kBlock = 256;

__device__ std::uint32_t magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }

__global__ void delayed_range_kernel(float* range, const float* history, int steps,
                                     codec::RangeRule rule, float most_value) {
  std::uint32_t most = 0;
  for (int i = static_cast<int>(threadIdx.x); i < steps; i += kWarp)
    most = ::max(most, magnitude(history[i]));
  most = warp_reduce(most, [](std::uint32_t a, std::uint32_t b) { return ::max(a, b); });
  if (threadIdx.x == 0) *range = rule.of_history(__uint_as_float(most), most_value);
}

// x and codes as one row of n elements, of which V divide n.
template <class T, int V, Quotients kQuotients, bool kStochastic, class Coder>
__global__ void __launch_bounds__(kBlock)
    tracked_kernel(std::uint8_t* codes, float* largest, const T* x, std::int64_t n,
                   const TileSteps t, const RngKey key, const __grid_constant__ Coder coder) {
  __shared__ typename Coder::Shared shared;
  __shared__ std::uint32_t scratch[kWarp];
  coder.template prepare<Coding::Encode, kStochastic>(shared);
  const Draws16 draws(key, kStochastic ? key.step_value() : 0);
  OwnSteps<1> own;
  Division<kQuotients, 1> division;
  own.select(t, 0, 0);
  division.set(own);
  extremes::Largest<T> most;
  for (std::int64_t at = (blockIdx.x * std::int64_t{kBlock} + threadIdx.x) * V; at < n;
       at += std::int64_t{gridDim.x} * kBlock * V) {
    T in[V];
    load_row<V>(x + at, in);
    most.add(in);
    float y[V];
#pragma unroll
    for (int j = 0; j < V; ++j) y[j] = to_float(in[j]);
    division.template operator()<Coder::kTellsTiny>(own, y, y);
    std::uint32_t noise[V] = {}, found[V];
    if constexpr (kStochastic) draw_row<V>(draws, at, noise);
    coder.template encode<kStochastic>(shared, y, noise, found);
    std::uint8_t out[V];
#pragma unroll
    for (int j = 0; j < V; ++j) out[j] = static_cast<std::uint8_t>(found[j]);
    store_row<V>(codes + at, out);
  }
  const std::uint32_t of_block = block_reduce(
      most.value(0), 0u, [](std::uint32_t a, std::uint32_t b) { return ::max(a, b); }, scratch);
  if (threadIdx.x == 0) atomicMax(reinterpret_cast<std::uint32_t*>(largest), of_block);
}

template <class T, int V>
void encode_tracked(std::uint8_t* codes, float* largest, const T* x, std::int64_t n,
                    const TileSteps& t, const QuantSpec& spec, const RngKey& key) {
  const unsigned grid = grid_for(n / V, kBlock);
  with_coder(spec.format, [&](const auto& coder) {
    const auto run = [&](auto quotients, auto stochastic) {
      launch(tracked_kernel<T, V, decltype(quotients)::value, decltype(stochastic)::value,
                            std::decay_t<decltype(coder)>>,
             grid, kBlock, 0, codes, largest, x, n, t, key, coder);
    };
    constexpr std::integral_constant<Quotients, Quotients::Reciprocal> kScaled;
    constexpr std::integral_constant<Quotients, Quotients::Divide> kDivided;
    const bool noise = spec.rounding == Rounding::Stochastic;
    if (spec.scaling == Scaling::Reciprocal)
      noise ? run(kScaled, std::true_type{}) : run(kScaled, std::false_type{});
    else
      noise ? run(kDivided, std::true_type{}) : run(kDivided, std::false_type{});
  });
}

__global__ void settle_kernel(float* now, float* scale, const float* largest) {
  const float most = *largest;
  *now = __uint_as_float(::max(magnitude(*now), magnitude(most)));
  if (!codec::is_finite(most)) *scale = codec::one_nan(__uint_as_float(0x7fc00000u));
}

__global__ void advance_kernel(float* history, float* now, std::int64_t tensors,
                               std::uint32_t steps, const StepScalars* step) {
  const std::int64_t i = blockIdx.x * std::int64_t{kBlock} + threadIdx.x;
  if (i >= tensors) return;
  if (!step->bad) history[i * steps + step->step % steps] = now[i];
  now[i] = 0;
}

}  // namespace

void quant_delayed_range(Tensor& range, const Tensor& history, const QuantSpec& spec) {
  launch(delayed_range_kernel, 1, kWarp, 0, range.data<float>(), history.data<float>(),
         static_cast<int>(history.numel()), codec::RangeRule(spec), spec.format.max_value());
}

void quant_encode_tracked(Tensor& codes, Tensor& largest, const Tensor& x, const Tensor& steps,
                          const QuantSpec& spec, const RngKey& key) {
  const std::int64_t n = x.numel();
  auto* out = reinterpret_cast<std::uint8_t*>(codes.raw());
  const TileSteps t(spec, x.size(0), x.size(1), steps, {});
  NIBBLE_CUDA_FLOAT_SWITCH(
      x.dtype(), "quantize", T, const T* in = x.data<T>();
      if (n % kColumns == 0 && is_aligned(in, 16) && is_aligned(out, 8))
          encode_tracked<T, kColumns>(out, largest.data<float>(), in, n, t, spec, key);
      else encode_tracked<T, 1>(out, largest.data<float>(), in, n, t, spec, key));
}

void quant_settle_range(Tensor& now, Tensor& scales, const Tensor& largest) {
  launch(settle_kernel, 1, 1, 0, now.data<float>(), scales.data<float>(), largest.data<float>());
}

void quant_advance_ranges(Tensor& history, Tensor& now, const StepScalars* step) {
  const std::int64_t tensors = history.size(0);
  launch(advance_kernel, static_cast<unsigned>(ceil_div(tensors, kBlock)), kBlock, 0,
         history.data<float>(), now.data<float>(), tensors,
         static_cast<std::uint32_t>(history.size(1)), step);
}

}  // namespace nibble::cuda
