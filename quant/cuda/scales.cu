// Ranges to stored scales and back to steps: a few bytes and operations a tile, so the time is that
// of a launch, or of two when a relative floor or a global scale needs a maximum over all tiles.
#include "quant/kernels.h"
#include "quant/scale_math.h"
#include "tensor/cuda/common.cuh"

namespace nibble::cuda {
namespace {

constexpr unsigned kBlock = 256;

__device__ std::int64_t first_item() { return std::int64_t{blockIdx.x} * kBlock + threadIdx.x; }
__device__ std::int64_t item_stride() { return std::int64_t{gridDim.x} * kBlock; }

// Bits of the largest range and of the largest step: numbers that are not negative compare as
// integers, and NaN is the largest.
struct Most {
  std::uint32_t range, step;
};

struct Tiles {
  const float* ranges;
  const float* minima;  // null for symmetric specs
  std::int64_t count;
  codec::StepRule rule;

  __device__ float step(std::int64_t t, float least) const {
    return rule.step(ranges[t], minima ? minima[t] : 0.0f, least);
  }
};
__device__ float least_of(const Tiles& tiles, const Most* most) {
  return tiles.rule.least(tiles.rule.relative ? std::bit_cast<float>(most->range) : 0.0f);
}

template <bool kSteps>
__global__ void __launch_bounds__(kBlock) most_kernel(Most* most, const Tiles tiles) {
  __shared__ std::uint32_t scratch[kWarp];
  const float least = kSteps ? least_of(tiles, most) : 0.0f;
  std::uint32_t own = 0;
  for (std::int64_t t = first_item(); t < tiles.count; t += item_stride())
    own = ::max(own, std::bit_cast<std::uint32_t>(kSteps ? tiles.step(t, least) : tiles.ranges[t]));
  own = block_reduce(
      own, 0u, [](std::uint32_t a, std::uint32_t b) { return ::max(a, b); }, scratch);
  if (threadIdx.x == 0) atomicMax(kSteps ? &most->step : &most->range, own);
}

template <class Form>
__global__ void __launch_bounds__(kBlock)
    scales_kernel(typename Form::type* stored, float* zeros, float* global, const Tiles tiles,
                  const Most* most) {
  const float least = least_of(tiles, most);
  const float whole = global ? codec::global_scale(std::bit_cast<float>(most->step)) : 1.0f;
  if (global && first_item() == 0) *global = whole;
  for (std::int64_t t = first_item(); t < tiles.count; t += item_stride()) {
    const auto scale = Form::encode(tiles.step(t, least), whole);
    stored[t] = scale;
    if (zeros) zeros[t] = tiles.rule.zero(tiles.minima[t], Form::decode(scale, whole));
  }
}

template <class Form>
__global__ void __launch_bounds__(kBlock)
    steps_kernel(float* steps, const typename Form::type* stored, const float* global,
                 std::int64_t count) {
  const float whole = global ? *global : 1.0f;
  for (std::int64_t t = first_item(); t < count; t += item_stride())
    steps[t] = Form::decode(stored[t], whole);
}

}  // namespace

void quant_scales(Tensor& scales, Tensor& zeros, Tensor& global, const Tensor& ranges,
                  const Tensor& minima, const QuantSpec& spec) {
  const Tiles tiles{ranges.data<float>(), spec.symmetric ? nullptr : minima.data<float>(),
                    ranges.numel(), codec::StepRule(spec)};
  if (tiles.count == 0) return;
  const unsigned grid = grid_for(tiles.count, kBlock);
  const bool two_level = spec.scale == ScaleType::TwoLevel;
  Tensor scratch;
  Most* most = nullptr;
  if (two_level || tiles.rule.relative) {
    scratch = Tensor::empty({2}, DType::I32, ranges.device());
    most = reinterpret_cast<Most*>(scratch.raw());
    NIBBLE_CUDA_CHECK(cudaMemsetAsync(most, 0, sizeof *most, stream()));
  }
  if (tiles.rule.relative) launch(most_kernel<false>, grid, kBlock, 0, most, tiles);
  if (two_level) launch(most_kernel<true>, grid, kBlock, 0, most, tiles);
  codec::with_scale_type(spec.scale, [&](auto form) {
    using Form = decltype(form);
    launch(scales_kernel<Form>, grid, kBlock, 0, scales.data<typename Form::type>(),
           spec.symmetric ? nullptr : zeros.data<float>(),
           two_level ? global.data<float>() : nullptr, tiles, most);
  });
}

void quant_steps(Tensor& steps, const Tensor& scales, const Tensor& global, const QuantSpec& spec) {
  const std::int64_t n = steps.numel();
  codec::with_scale_type(spec.scale, [&](auto form) {
    using Form = decltype(form);
    launch(steps_kernel<Form>, grid_for(n, kBlock), kBlock, 0, steps.data<float>(),
           scales.data<typename Form::type>(), global.defined() ? global.data<float>() : nullptr,
           n);
  });
}

}  // namespace nibble::cuda
