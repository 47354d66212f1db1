// The sums of squares of many tensors, or of one, whose clip factor follows: what norms of
// gradients are made of. Reads 4 or 2 bytes an element once; computes two operations in f64 and
// four of integers. Bound by memory (0.5 GB of GPT-2 124M's gradients: 0.12 ms of an H200); `nibble
// bench kernels` measures it. A warp takes a piece of cpu/loops.h's kGrain elements, lane l the
// elements l + 32 i, as cpu/lanes.h folds them; a warp then adds up a tensor's pieces, and one
// thread the tensors.
#include "optim/update_math.h"
#include "tensor/cuda/lanes.cuh"

namespace nibble::cuda {
namespace {

constexpr unsigned kBlock = 256, kWarps = kBlock / kWarp;
// Tensors of a launch; their table is a parameter, so that nothing is uploaded.
constexpr int kTensors = 168;

struct Part {
  const void* x;
  std::int64_t count;
  std::uint32_t first_piece;  // among those of all tensors
  bool bf16;
};
struct Parts {
  Part part[kTensors];
  int count;
  std::uint32_t first_piece, pieces;  // of the launch
};

// |x| as a double from its bits, since the instruction that converts has an eighth of what memory
// delivers: shifted into a double's place they mean |x| · 2^-896, subnormal numbers too. Not for
// infinities and NaN.
__device__ double widened(std::uint32_t magnitude) {
  return __hiloint2double(static_cast<int>(magnitude >> 3), static_cast<int>(magnitude << 29)) *
         0x1p896;
}

// Squares of elements l, l + 32 … of a lane l, added up; `most`: the largest magnitude's bits.
struct LaneSum {
  double sum = 0;
  std::uint32_t most = 0;

  __device__ void add(float x) {
    const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(x) & 0x7fffffffu;
    most = ::max(most, magnitude);
    sum = SumFold{}(sum, Square{}(widened(magnitude)));
  }
};

template <class T>
__device__ double piece_sum(const T* x, int count) {
  constexpr int kAhead = 16;  // loads under way; the compiler would wait for each of them
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  LaneSum own;
  int begin = 0;
  for (; begin + kAhead * static_cast<int>(kWarp) <= count;
       begin += kAhead * static_cast<int>(kWarp)) {
    T in[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) in[k] = x[begin + k * static_cast<int>(kWarp) + lane];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) own.add(to_float(in[k]));
  }
  for (int i = begin + lane; i < count; i += kWarp) own.add(to_float(x[i]));
  if (own.most >= 0x7f800000u) {
    own.sum = 0;
    for (int i = lane; i < count; i += kWarp)
      own.sum = SumFold{}(own.sum, Square{}(static_cast<double>(to_float(x[i]))));
  }
  return warp_reduce(own.sum, SumFold{});
}

__global__ void __launch_bounds__(kBlock)
    pieces_kernel(double* sums, const __grid_constant__ Parts parts) {
  const std::uint32_t own = blockIdx.x * kWarps + threadIdx.x / kWarp;
  if (own >= parts.pieces) return;
  const std::uint32_t piece = parts.first_piece + own;
  int low = 0, high = parts.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (parts.part[middle].first_piece <= piece)
      low = middle;
    else
      high = middle - 1;
  }
  const Part& p = parts.part[low];
  const std::int64_t begin = std::int64_t{piece - p.first_piece} * kPiece;
  const auto count = static_cast<int>(min(p.count - begin, kPiece));
  const double sum = p.bf16 ? piece_sum(static_cast<const bfloat16*>(p.x) + begin, count)
                            : piece_sum(static_cast<const float*>(p.x) + begin, count);
  if (threadIdx.x % kWarp == 0) sums[piece] = sum;
}

// Of a warp, from left to right: lanes fetch the next ones while the sum goes on.
__device__ double ordered_sum(const double* from, std::uint32_t count) {
  const std::uint32_t lane = threadIdx.x % kWarp;
  double total = 0, next = lane < count ? from[lane] : 0.0;
  for (std::uint32_t i = 0; i < count; i += kWarp) {
    const double here = next;
    if (i + kWarp + lane < count) next = from[i + kWarp + lane];
    if (i + kWarp <= count) {
#pragma unroll
      for (int l = 0; l < static_cast<int>(kWarp); ++l) total += __shfl_sync(kFullMask, here, l);
    } else {
      for (std::uint32_t l = 0; i + l < count; ++l)
        total += __shfl_sync(kFullMask, here, static_cast<int>(l));
    }
  }
  return total;
}

__global__ void __launch_bounds__(kBlock)
    tensors_kernel(double* totals, const double* sums, const __grid_constant__ Parts parts) {
  const std::uint32_t own = blockIdx.x * kWarps + threadIdx.x / kWarp;
  if (own >= static_cast<std::uint32_t>(parts.count)) return;
  const Part& p = parts.part[own];
  const double total = ordered_sum(sums + p.first_piece,
                                   static_cast<std::uint32_t>((p.count + kPiece - 1) / kPiece));
  if (threadIdx.x % kWarp == 0) totals[own] = total;
}

__global__ void total_kernel(double* y, const double* totals, std::uint32_t count) {
  const double total = ordered_sum(totals, count);
  if (threadIdx.x == 0) *y = total;
}

__global__ void clip_each_kernel(StepScalars* step, double* total, float* clips,
                                 const double* totals, int count, double max_norm) {
  for (int i = 0; i < count; ++i) {
    update::clip_parameter(*step, *total, totals[i], max_norm);
    clips[i] = step->clip;
  }
}

// Each tensor's sum of squares, in scratch that holds them.
struct TensorSums {
  Tensor scratch;
  const double* totals;
};
TensorSums sums_of(const std::vector<Tensor>& x, Device device) {
  std::vector<Parts> launches;
  std::int64_t pieces = 0;
  for (const Tensor& one : x) {
    if (launches.empty() || launches.back().count == kTensors) {
      launches.emplace_back();
      launches.back().count = 0;
      launches.back().first_piece = static_cast<std::uint32_t>(pieces);
    }
    NIBBLE_CHECK(one.dtype() == DType::F32 || one.dtype() == DType::BF16, "clip",
                 "got dtype {} on a GPU, expected f32 or bf16; f64 is for the CPU", one.dtype());
    Parts& last = launches.back();
    last.part[last.count++] = {one.raw(), one.numel(), static_cast<std::uint32_t>(pieces),
                               one.dtype() == DType::BF16};
    pieces += ceil_div(one.numel(), kPiece);
    last.pieces = static_cast<std::uint32_t>(pieces) - last.first_piece;
  }
  const auto tensors = static_cast<std::int64_t>(x.size());
  Tensor sums = Tensor::empty({pieces + tensors}, DType::F64, device);
  double* const totals = sums.data<double>() + pieces;
  for (const Parts& parts : launches)
    if (parts.pieces > 0)
      launch(pieces_kernel, static_cast<unsigned>(ceil_div(parts.pieces, kWarps)), kBlock, 0,
             sums.data<double>(), parts);
  std::int64_t first = 0;
  for (const Parts& parts : launches) {
    launch(tensors_kernel, static_cast<unsigned>(ceil_div(parts.count, kWarps)), kBlock, 0,
           totals + first, sums.data<double>(), parts);
    first += parts.count;
  }
  return {sums, totals};
}

}  // namespace

void sum_squares_of_all(Tensor& y, const std::vector<Tensor>& x) {
  const TensorSums sums = sums_of(x, y.device());
  launch(total_kernel, 1, kWarp, 0, y.data<double>(), sums.totals,
         static_cast<std::uint32_t>(x.size()));
}

void clip_each(StepScalars* step, Tensor& total, Tensor& clips,
               const std::vector<Tensor>& gradients, double max_norm) {
  const TensorSums sums = sums_of(gradients, total.device());
  launch(clip_each_kernel, 1, 1, 0, step, total.data<double>(), clips.data<float>(), sums.totals,
         static_cast<int>(gradients.size()), max_norm);
}

}  // namespace nibble::cuda
