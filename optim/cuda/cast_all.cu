// bf16 copies of f32 tensors, all in one launch: 6 bytes and one rounding an element, so memory is
// the roof; for biases and norms, which are most of the tensors, it is the launch. 80 % of a copy's
// rate on a large one.
#include <memory>

#include "optim/kernels.h"
#include "tensor/cuda/common.cuh"

namespace nibble::cuda {
namespace {

constexpr unsigned kBlock = 256;
constexpr int kEach = 2, kStride = kBlock * 8;   // vectors of eight of a thread, elements apart
constexpr std::int64_t kUnit = kEach * kStride;  // elements of a block's turn
constexpr int kSegments = 900;                   // what kernel parameters have room for

struct Segment {
  bfloat16* to;
  const float* from;
  std::int64_t count;
  std::uint32_t first_unit;
  bool vectors;
};
struct Work {
  Segment segments[kSegments];
  std::uint32_t count, units;
};
static_assert(sizeof(Work) <= 32764);

__global__ void __launch_bounds__(kBlock) cast_kernel(const __grid_constant__ Work work) {
  std::uint32_t own = 0;
  for (std::uint32_t unit = blockIdx.x; unit < work.units; unit += gridDim.x) {
    while (own + 1 < work.count && unit >= work.segments[own + 1].first_unit) ++own;
    const Segment& s = work.segments[own];
    const std::int64_t first = (unit - s.first_unit) * kUnit + threadIdx.x * 8;
    if (s.vectors && (unit - s.first_unit + 1) * kUnit <= s.count) {
      float x[kEach][8];
#pragma unroll
      for (int e = 0; e < kEach; ++e)
#pragma unroll
        for (int i = 0; i < 8; i += 4) {
          const auto part = load_vector<float>(s.from + first + e * kStride + i);
#pragma unroll
          for (int j = 0; j < 4; ++j) x[e][i + j] = part[j];
        }
#pragma unroll
      for (int e = 0; e < kEach; ++e) {
        Vector<bfloat16, 8> y;
#pragma unroll
        for (int j = 0; j < 8; ++j) y[j] = bfloat16(x[e][j]);
        store_vector(s.to + first + e * kStride, y);
      }
    } else {
      for (int e = 0; e < kEach; ++e)
        for (std::int64_t i = first + e * kStride; i < first + e * kStride + 8 && i < s.count; ++i)
          s.to[i] = bfloat16(s.from[i]);
    }
  }
}

}  // namespace

void cast_all(std::vector<Tensor>& to, const std::vector<Tensor>& from) {
  auto work = std::make_unique<Work>();
  const auto run = [&] {
    if (work->units == 0) return;
    launch(cast_kernel, grid_for(work->units, 1), kBlock, 0, *work);
    work->count = work->units = 0;
  };
  for (std::size_t i = 0; i < to.size(); ++i) {
    if (work->count == kSegments) run();
    auto* y = to[i].data<bfloat16>();
    const auto* x = from[i].data<float>();
    const std::int64_t n = to[i].numel(), units = work->units + ceil_div(n, kUnit);
    NIBBLE_CHECK(units < std::int64_t{1} << 32, "cast", "{} is too large for one GPU kernel",
                 describe(from[i]));
    work->segments[work->count++] = {y, x, n, work->units, is_aligned(y, 16) && is_aligned(x, 16)};
    work->units = static_cast<std::uint32_t>(units);
  }
  run();
}

}  // namespace nibble::cuda
