#include "operand.h"

#include "tile_encode.cuh"

namespace nibble::spike {
namespace {

constexpr int kMaxRowBlocks = 132 * 32;  // 1024 resident threads in blocks of at least 32

ScaleView row_view(const float* scales) { return {scales, 1, 1 << 30, 1, 0}; }

}  // namespace

const char* to_string(Family family) {
  switch (family) {
    case Family::kBf16: return "bf16";
    case Family::kRow: return "row";
    case Family::kTile: return "tile 128x128";
    case Family::kGroup: return "group 1x128";
  }
  return "?";
}

std::uint32_t* AbsmaxArena::take(std::size_t n) {
  if (used_ + n > words_.size()) throw std::runtime_error("AbsmaxArena: too small");
  used_ += n;
  return words_.get() + used_ - n;
}
void AbsmaxArena::zero_async() const {
  check(cudaMemsetAsync(words_.get(), 0, words_.size() * sizeof(std::uint32_t)));
}

Operand::Operand(int r, int c, Family f, bool keep_dense, AbsmaxArena& arena)
    : rows(r), cols(c), family(f) {
  const std::size_t n = std::size_t(r) * c;
  if (keep_dense || f == Family::kBf16 || f == Family::kRow) dense = Buffer<bf16>(n);
  if (f == Family::kBf16) return;
  codes = Buffer<std::int8_t>(n);
  codes_t = Buffer<std::int8_t>(n);
  if (f == Family::kRow) {
    scales = Buffer<float>(r);
    scales_t = Buffer<float>(c);
    row_absmax = arena.take(r);
    col_absmax = arena.take(c);
  } else if (f == Family::kTile) {
    scales = Buffer<float>(std::size_t(row_tiles()) * col_tiles());
  } else {
    scales = Buffer<float>(std::size_t(r) * col_tiles());
    scales_t = Buffer<float>(std::size_t(c) * row_tiles());
  }
}

ScaleView Operand::view() const {
  if (family == Family::kRow) return row_view(scales.get());
  return {scales.get(), family == Family::kTile ? kTile : 1, kTile, col_tiles(), 1};
}
ScaleView Operand::view_t() const {
  if (family == Family::kRow) return row_view(scales_t.get());
  if (family == Family::kTile) return {scales.get(), kTile, kTile, 1, col_tiles()};
  return {scales_t.get(), 1, kTile, row_tiles(), 1};
}

Encoder::Encoder(int max_cols) : partials_(std::size_t(kMaxRowBlocks) * max_cols * 3) {}

template <class P, bool kStore, bool kAbsmax>
int Encoder::rows_kernel(P p, Operand& out) {
  const int vectors = out.cols / 8;
  int slabs = P::kRowSums ? 1 : ceil_div(vectors, 224);
  while (vectors % slabs != 0) ++slabs;
  const int threads = ceil_div(vectors / slabs, 32) * 32;
  if (threads > 256) throw std::runtime_error("row_produce: row too wide");
  auto* kernel = row_produce<P, kStore, kAbsmax>;
  int resident = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, 0));
  const int blocks = std::min(ceil_div(out.rows, 4),
                              std::max(1, 132 * std::min(resident, 1024 / threads) / slabs));
  const RowOutputs to{out.dense.get(), out.row_absmax, out.col_absmax, partials_.get()};
  kernel<<<dim3(unsigned(blocks), unsigned(slabs)), unsigned(threads)>>>(p, out.rows, out.cols, to);
  check(cudaGetLastError());
  return blocks;
}

template <class P, Scales kScales>
void Encoder::tile_kernel(P p, Operand& out, NoiseKey key) {
  const TileOutputs to{out.codes.get(), out.codes_t.get(), out.scales.get(), out.scales_t.get(),
                       out.row_absmax,  out.col_absmax,    partials_.get()};
  auto* kernel = tile_encode<P, kScales>;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(out.col_tiles()), unsigned(out.row_tiles()));
  config.blockDim = dim3(256);
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {config.gridDim.x, 1, 1};
  if constexpr (P::kRowSums) {  // a row of tiles is one cluster; 13 tiles (C = 1600) is not
                                // portable
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    config.attrs = &cluster;
    config.numAttrs = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, p, out.rows, out.cols, to, key));
}

template <class P>
void Encoder::tile_family(P p, Operand& out, NoiseKey key) {
  if (out.family == Family::kTile)
    tile_kernel<P, Scales::kTile>(p, out, key);
  else
    tile_kernel<P, Scales::kGroup>(p, out, key);
}

void Encoder::reduce(Profiler& prof, float* out, int terms, int parts, int cols) {
  if (terms == 0) return;
  reduce_partials(out, partials_.get(), terms, parts, cols);
  prof.mark("bias grad", "reduce column sums", 4.0 * terms * (parts + 1.0) * cols);
}

template <class P>
void Encoder::produce(Profiler& prof, const char* name, P p, Operand& out, float* col_sums,
                      NoiseKey key, bool defer_pair) {
  const double n = double(out.rows) * out.cols;
  const bool row = out.family == Family::kRow, tiles = !row && out.family != Family::kBf16;
  if constexpr (!P::kTwoPasses) {
    if (tiles) {
      tile_family(p, out, key);
      prof.mark("producers", std::string(name) + " + encode", n * (2 * P::kReads + 2));
      reduce(prof, col_sums, P::kColTerms, out.row_tiles(), out.cols);
      return;
    }
  }
  const int parts = row ? rows_kernel<P, true, true>(p, out) : rows_kernel<P, true, false>(p, out);
  prof.mark("producers", std::string(name) + (row ? " + absmax" : ""), n * (2 * P::kReads + 2));
  reduce(prof, col_sums, P::kColTerms, parts, out.cols);
  if (row && !defer_pair) pair_pass<P::kGradient>(prof, name, out.dense.get(), out, key);
  if (tiles) {
    tile_family(Plain<P::kGradient, false>{{}, out.dense.get()}, out, key);
    prof.mark("quantize", std::string("encode ") + name, 4 * n);
  }
}

template <bool kGradient>
void Encoder::pair_pass(Profiler& prof, const char* name, const bf16* in, Operand& out,
                        NoiseKey key) {
  tile_kernel<Plain<kGradient>, Scales::kRowCol>({{}, in}, out, key);
  prof.mark("quantize", std::string("pair pass ") + name, 4.0 * out.rows * out.cols);
}

template <bool kGradient>
void Encoder::encode(Profiler& prof, const char* name, const bf16* in, Operand& out,
                     float* col_sums, NoiseKey key, const char* encode_class) {
  const Plain<kGradient> p{{}, in};
  const double n = double(out.rows) * out.cols;
  int parts = 0;
  if (out.family == Family::kBf16) {
    if constexpr (!kGradient) return;
    parts = rows_kernel<Plain<true>, false, false>({{}, in}, out);
    prof.mark("bias grad", std::string("column sums ") + name, 2 * n);
  } else if (out.family == Family::kRow) {
    parts = rows_kernel<Plain<kGradient>, false, true>(p, out);
    prof.mark(encode_class, std::string("absmax ") + name, 2 * n);
    tile_kernel<Plain<kGradient>, Scales::kRowCol>(p, out, key);
    prof.mark(encode_class, std::string("pair pass ") + name, 4 * n);
  } else {
    tile_family(p, out, key);
    parts = out.row_tiles();
    prof.mark(encode_class, std::string("encode ") + name, 4 * n);
  }
  reduce(prof, col_sums, kGradient ? 1 : 0, parts, out.cols);
}

#define NIBBLE_SPIKE_PRODUCER(P) \
  template void Encoder::produce(Profiler&, const char*, P, Operand&, float*, NoiseKey, bool);
NIBBLE_SPIKE_PRODUCER(LnForward)
NIBBLE_SPIKE_PRODUCER(LnBackward)
NIBBLE_SPIKE_PRODUCER(Gelu)
NIBBLE_SPIKE_PRODUCER(GeluBackward)
template void Encoder::pair_pass<true>(Profiler&, const char*, const bf16*, Operand&, NoiseKey);
template void Encoder::encode<true>(Profiler&, const char*, const bf16*, Operand&, float*, NoiseKey,
                                    const char*);
template void Encoder::encode<false>(Profiler&, const char*, const bf16*, Operand&, float*,
                                     NoiseKey, const char*);

}  // namespace nibble::spike
