// Both encodings of a matrix in one pass (quant_pair). A cluster takes the 256 or 128 rows of a
// column's run; each of its blocks copies 64 of them (a slice of the columns, when rows are long)
// into shared memory, where producers work in place. Largest magnitudes of rows and columns are
// found there and exchanged within the cluster; then every element is read once more and encoded
// twice, with one draw. A thread encodes 16 rows of 8 columns: 8 neighbouring codes of a row and 16
// of a column leave together, so that nothing is turned in shared memory.
//
// Moves 2 or 4 bytes an element in and 1 + 1 out, producers 2 or 4 more for each other tensor of
// theirs; computes about 15 operations an element, 25 with noise, against some 28 that an H200 can
// do while it moves 4 bytes. Measured: tests/bench/results/2026-11-29-pair.md.
#pragma once

#include "quant/cuda/pair_survey.cuh"

namespace nibble::cuda::pair {

// ---- steps ------------------------------------------------------------------------------------

// Steps of the block's rows and columns from what the cluster found; leaves their factors.
template <class T>
__device__ void settle(const Arguments<T>& a, const Patch<T>& patch, const Place& here) {
  const auto maximum = [](uint4 p, uint4 q) {
    return uint4{::max(p.x, q.x), ::max(p.y, q.y), ::max(p.z, q.z), ::max(p.w, q.w)};
  };
  if (a.column_codes)
    for (std::uint32_t c = threadIdx.x * 4; c < here.cols; c += kBlock * 4) {
      const std::uint32_t own = shared_address(patch.column_most + c);
      uint4 most{};
      for (std::uint32_t r = 0; r < a.down; ++r)
        most =
            maximum(most, hopper::load_remote(hopper::address_in(r * a.slices + here.slice, own)));
      const std::uint32_t found[4] = {most.x, most.y, most.z, most.w};
#pragma unroll
      for (std::uint32_t k = 0; k < 4; ++k) {
        const float step = a.column_rule.of_largest(found[k]);
        patch.column_factor[c + k] = codec::multiplier_of(step);
        if (here.down == 0)
          a.column_steps[std::int64_t{here.col0 + c + k} * a.runs + here.band] = step;
      }
    }
  const std::uint32_t all = a.groups * kRows;
  for (std::uint32_t i = threadIdx.x * 4; i < all; i += kBlock * 4) {
    const std::uint32_t own = shared_address(patch.row_most + i);
    uint4 most = *reinterpret_cast<const uint4*>(patch.row_most + i);
    const bool whole = a.log_group > 7;  // a row's scale covers the slices
    for (std::uint32_t s = 0; whole && s < a.slices; ++s)
      if (s != here.slice)
        most =
            maximum(most, hopper::load_remote(hopper::address_in(here.down * a.slices + s, own)));
    const std::uint32_t found[4] = {most.x, most.y, most.z, most.w};
    const std::uint32_t group = i / kRows, row = i % kRows;
    const std::uint32_t column = whole ? 0 : (here.col0 >> a.log_group) + group;
    const std::uint32_t columns = whole ? 1 : a.cols >> a.log_group;
#pragma unroll
    for (std::uint32_t k = 0; k < 4; ++k) {
      const float step = a.row_rule.of_largest(found[k]);
      patch.row_factor[i + k] = codec::multiplier_of(step);
      if (row + k < here.rows && column < columns && (!whole || here.slice == 0))
        a.row_steps[std::int64_t{here.row0 + row + k} * columns + column] = step;
    }
  }
}

// ---- codes ------------------------------------------------------------------------------------

// A code in the low byte: codec::encode_integer for quotients that are not below the lowest code.
// fminf makes the largest of NaN, as there.
template <bool kStochastic>
__device__ std::uint32_t code_of(float x, float factor, float noise, float high) {
  float y = codec::mul(x, factor);
  if constexpr (kStochastic) y = codec::add(y, noise);
  return std::bit_cast<std::uint32_t>(codec::add(fminf(y, high), codec::kRoundMagic));
}

template <bool kStochastic, class T>
__device__ void encode(const Arguments<T>& a, const Patch<T>& patch, const Place& here) {
  const std::uint32_t lane = threadIdx.x % kWarp, across = lane % kAcross;
  const std::uint32_t row = lane / kAcross * kDepth;
  const std::uint32_t step = kStochastic ? a.key.step_value() : 0;
  for (std::uint32_t tile = threadIdx.x / kWarp * kTile; tile < here.cols; tile += kWarps * kTile) {
    const std::uint32_t col = tile + across * 8;
    if (col >= here.cols || row >= here.rows) continue;
    const float* const row_factors = patch.row_factor + (tile >> a.log_group) * kRows + row;
    float factor[8];
    load_row<8>(patch.column_factor + col, factor);
    std::int64_t at = std::int64_t{here.row0 + row} * a.cols + here.col0 + col;
#pragma unroll 1
    for (std::uint32_t i = 0; i < kDepth; i += 4) {
      Vector<T, 8> x[4];
#pragma unroll
      for (std::uint32_t k = 0; k < 4; ++k) x[k] = load_eight(patch.at(row + i + k, col));
      const auto by_row = load_vector<float, 4>(row_factors + i);
      std::uint32_t words[8];
#pragma unroll
      for (int k = 0; k < 4; ++k, at += a.cols) {
        Philox p{};
        if constexpr (kStochastic)
          p = a.keys.block(static_cast<std::uint64_t>(at) >> 3, a.key.site, step);
        std::uint32_t codes[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float v = to_float(x[k][j]), noise = kStochastic ? one_pass::noise_of(p, j) : 0.0f;
          codes[j] = code_of<kStochastic>(v, by_row[k], noise, a.row_high);
          const std::uint32_t c = code_of<kStochastic>(v, factor[j], noise, a.column_high);
          words[j] = k == 0 ? c
                            : __byte_perm(words[j], c,
                                          k == 1   ? 0x3240
                                          : k == 2 ? 0x3410
                                                   : 0x4210);
        }
        *reinterpret_cast<uint2*>(a.row_codes + at) = {
            one_pass::low_bytes(codes[0], codes[1], codes[2], codes[3]),
            one_pass::low_bytes(codes[4], codes[5], codes[6], codes[7])};
      }
      // Kept where the lane's own values were until all 16 rows are done.
      auto* const kept = reinterpret_cast<uint4*>(patch.at(row + i, col));
      auto* const more = reinterpret_cast<uint4*>(patch.at(row + i + 1, col));
      *kept = {words[0], words[1], words[2], words[3]};
      *more = {words[4], words[5], words[6], words[7]};
    }
    if (!a.column_codes) continue;
    std::uint8_t* to = a.column_codes + std::int64_t{here.col0 + col} * a.rows + here.row0 + row;
#pragma unroll
    for (std::uint32_t half = 0; half < 2; ++half) {
      uint4 w[4];
#pragma unroll
      for (std::uint32_t k = 0; k < 4; ++k)
        w[k] = *reinterpret_cast<const uint4*>(patch.at(row + 4 * k + half, col));
      const uint4 turned[4] = {{w[0].x, w[1].x, w[2].x, w[3].x},
                               {w[0].y, w[1].y, w[2].y, w[3].y},
                               {w[0].z, w[1].z, w[2].z, w[3].z},
                               {w[0].w, w[1].w, w[2].w, w[3].w}};
#pragma unroll
      for (int j = 0; j < 4; ++j, to += a.rows) *reinterpret_cast<uint4*>(to) = turned[j];
    }
  }
}

template <Kind kKind, bool kStochastic, class T>
__global__ void __launch_bounds__(kBlock, 2) pair_kernel(const __grid_constant__ Arguments<T> a) {
  extern __shared__ __align__(128) unsigned char memory[];
  const Patch<T> patch(memory, a.width, a.groups);
  const Place here(a);
  const std::uint32_t barrier = shared_address(patch.barrier);
  for (std::uint32_t i = threadIdx.x; i < a.groups * kRows; i += kBlock) patch.row_most[i] = 0;
  if (threadIdx.x == 0) {
    hopper::init_barrier(barrier, 1);
    hopper::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x < kWarp) {
    const std::uint32_t bytes = here.cols * static_cast<std::uint32_t>(sizeof(T));
    if (threadIdx.x == 0) hopper::arrive_expecting(barrier, here.rows * bytes);
    __syncwarp();
    // A last slice may have no column.
    for (std::uint32_t row = threadIdx.x; row < here.rows && bytes > 0; row += kWarp)
      hopper::load_bytes(shared_address(patch.at(row, 0)),
                         a.x + std::int64_t{here.row0 + row} * a.cols + here.col0, bytes, barrier);
  }
  hopper::wait(barrier, 0);
  survey<kKind>(a, patch, here);
  hopper::cluster_sync();
  settle(a, patch, here);
  hopper::cluster_arrive();  // neighbours' maxima have been read
  __syncthreads();
  encode<kStochastic>(a, patch, here);
  hopper::cluster_wait();
}

// ---- launch -----------------------------------------------------------------------------------

template <class... Params>
void launch_clusters(void (*kernel)(Params...), std::uint32_t clusters, std::uint32_t size,
                     std::size_t shared, const Params&... params) {
  NIBBLE_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(shared)));
  NIBBLE_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(clusters * size);
  config.blockDim = dim3(kBlock);
  config.dynamicSmemBytes = shared;
  config.stream = stream();
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {size, 1, 1};
  config.attrs = &attribute;
  config.numAttrs = 1;
  NIBBLE_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, params...));
}

template <Kind kKind, class T>
void run(Arguments<T>& a, bool stochastic) {
  const std::int64_t unit = a.log_group > 7 ? kTile : 128;
  const int slices = pair_slices(a.cols, dtype_of<T>, unit, false);
  a.slices = static_cast<std::uint32_t>(slices);
  a.width = static_cast<std::uint32_t>(pair_width(a.cols, slices, unit));
  a.groups = a.log_group > 7 ? 1 : a.width >> a.log_group;
  const auto clusters = static_cast<std::uint32_t>(ceil_div(a.rows, a.down * kRows));
  const std::size_t shared = Patch<T>::bytes(a.width, a.groups);
  if constexpr (kKind == Kind::Plain || kKind == Kind::GeluBackward)
    if (stochastic)
      return launch_clusters(pair_kernel<kKind, true, T>, clusters, a.down * a.slices, shared, a);
  launch_clusters(pair_kernel<kKind, false, T>, clusters, a.down * a.slices, shared, a);
}

// pair_gelu.cu: a unit of its own, for the compiler.
extern template void run<Kind::Gelu>(Arguments<float>&, bool);
extern template void run<Kind::Gelu>(Arguments<bfloat16>&, bool);
extern template void run<Kind::GeluBackward>(Arguments<float>&, bool);
extern template void run<Kind::GeluBackward>(Arguments<bfloat16>&, bool);

}  // namespace nibble::cuda::pair
