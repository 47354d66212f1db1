// Copies, conversions and fills over any strides: each element moves once each way. Unchanged
// elements travel in words of up to 16 bytes, transpositions go through a tile in shared memory,
// f32 and bf16 convert in vectors; any other pair of dtypes goes one element a thread.
#include <cmath>
#include <cstring>

#include "tensor/convert.h"
#include "tensor/cuda/elementwise.cuh"
#include "tensor/cuda/units.cuh"
#include "tensor/kernels.h"

namespace nibble::cuda {
namespace {

struct Identity {
  template <class T>
  __device__ T operator()(T x) const {
    return x;
  }
};
// A NaN keeps its bits as on the CPU; bfloat16 reaches functors as a float (elementwise.cuh).
template <class To>
struct Convert {
  __device__ To operator()(float x) const { return static_cast<To>(x); }
};
template <class T>
struct Constant {
  T value;
  __device__ T operator()() const { return value; }
};

// A transposition: `row` counts the dimension along which x is dense, `col` the one along which y
// is. What other dimensions there are is `outer`.
struct Transposition {
  std::int64_t rows, cols, row_tiles, col_tiles;
  std::int64_t y_row, y_col, x_row, x_col;  // strides
  int outer_rank;
  std::int64_t extent[Shape::kMaxRank], y_outer[Shape::kMaxRank], x_outer[Shape::kMaxRank];
};
constexpr int kTile = 64;
constexpr int kTileBlock = 256;
constexpr int kTileStep = kTileBlock / kTile;
constexpr std::int64_t kMinTranspose = 16;  // below, most of a tile would idle

template <class To, class From>
__global__ void __launch_bounds__(kTileBlock)
    transpose_kernel(To* y, const From* x, Transposition t) {
  // Rows of an odd number of 4-byte words: reading a column meets every bank once.
  constexpr int kPad = sizeof(To) < 4 ? 4 / static_cast<int>(sizeof(To)) : 1;
  __shared__ To tile[kTile][kTile + kPad];
  std::int64_t rest = blockIdx.x;
  const std::int64_t c0 = rest % t.col_tiles * kTile;
  rest /= t.col_tiles;
  const std::int64_t r0 = rest % t.row_tiles * kTile;
  rest /= t.row_tiles;
  for (int d = t.outer_rank - 1; d >= 0; --d) {
    const std::int64_t at = rest % t.extent[d];
    rest /= t.extent[d];
    y += at * t.y_outer[d];
    x += at * t.x_outer[d];
  }
  const int lane = static_cast<int>(threadIdx.x) % kTile;
  const int first = static_cast<int>(threadIdx.x) / kTile;
  if (const std::int64_t r = r0 + lane; r < t.rows) {
    const From* from = x + r * t.x_row + c0 * t.x_col;
#pragma unroll
    for (int c = first; c < kTile; c += kTileStep)
      if (c0 + c < t.cols) tile[c][lane] = static_cast<To>(operand(from[c * t.x_col]));
  }
  __syncthreads();
  if (const std::int64_t c = c0 + lane; c < t.cols) {
    To* to = y + c * t.y_col + r0 * t.y_row;
#pragma unroll
    for (int r = first; r < kTile; r += kTileStep)
      if (r0 + r < t.rows) to[r * t.y_row] = tile[lane][r];
  }
}

template <class To, class From>
void transpose(To* y, const From* x, const Strided<2>& s, int dense) {
  const int last = s.rank - 1;
  Transposition t{};
  t.rows = s.extent[dense];
  t.cols = s.extent[last];
  t.row_tiles = ceil_div(t.rows, kTile);
  t.col_tiles = ceil_div(t.cols, kTile);
  t.y_row = s.stride[0][dense];
  t.x_row = s.stride[1][dense];
  t.y_col = s.stride[0][last];
  t.x_col = s.stride[1][last];
  std::int64_t blocks = t.row_tiles * t.col_tiles;
  for (int d = 0; d < last; ++d) {
    if (d == dense) continue;
    t.extent[t.outer_rank] = s.extent[d];
    t.y_outer[t.outer_rank] = s.stride[0][d];
    t.x_outer[t.outer_rank++] = s.stride[1][d];
    blocks *= s.extent[d];
  }
  launch(transpose_kernel<To, From>, static_cast<unsigned>(blocks), kTileBlock, 0, y, x, t);
}
bool transposes(const Strided<2>& s, int dense) {
  const int last = s.rank - 1;
  return dense != last && s.extent[dense] >= kMinTranspose && s.extent[last] >= kMinTranspose;
}

// The space of `s` in words of `size` elements along its dense innermost dimension.
template <int K>
Strided<K> in_words(const Strided<K>& s, std::int64_t element, std::int64_t word) {
  Strided<K> w = s;
  const int last = s.rank - 1;
  w.extent[last] = s.extent[last] * element / word;
  for (auto& stride : w.stride)
    for (int d = 0; d < last; ++d) stride[d] = stride[d] * element / word;
  return w;
}
// What a word must divide (with_unit): runs, strides and addresses, in bytes.
template <int K>
std::uintptr_t word_bytes(const Strided<K>& s, std::int64_t element) {
  const int last = s.rank - 1;
  std::int64_t bytes = s.extent[last] * element;
  for (const auto& stride : s.stride) {
    if (stride[last] != 1) return static_cast<std::uintptr_t>(element);
    for (int d = 0; d < last; ++d) bytes |= stride[d] * element;
  }
  return static_cast<std::uintptr_t>(bytes);
}

void copy_same(std::byte* y, const std::byte* x, std::int64_t element, const Strided<2>& s) {
  const int last = s.rank - 1, dense = dense_dimension(s);
  if (s.rank == 1 && s.stride[0][0] == 1 && s.stride[1][0] == 1) {
    NIBBLE_CUDA_CHECK(cudaMemcpyAsync(y, x, static_cast<std::size_t>(s.extent[0] * element),
                                      cudaMemcpyDeviceToDevice, stream()));
    return;
  }
  const bool transposed = transposes(s, dense);
  const bool runs = !transposed && s.stride[0][last] == 1 && s.stride[1][last] == 1;
  const std::uintptr_t bytes = runs ? word_bytes(s, element) | address(y) | address(x)
                                    : static_cast<std::uintptr_t>(element);
  with_unit(bytes, [&]<class Word>(Word) {
    auto* to = reinterpret_cast<Word*>(y);
    const auto* from = reinterpret_cast<const Word*>(x);
    if (runs)
      launch_strided<1>(in_words(s, element, sizeof(Word)), std::index_sequence<0>{}, Identity{},
                        to, from);
    else if (!transposed)
      launch_strided<1>(s, std::index_sequence<0>{}, Identity{}, to, from);
    else if constexpr (sizeof(Word) <= 8)
      transpose(to, from, s, dense);
  });
}

template <class To, class From>
void convert_fast(Tensor& y, const Tensor& x, const Strided<2>& s) {
  if (const int dense = dense_dimension(s); transposes(s, dense))
    transpose(y.data<To>(), x.data<From>(), s, dense);
  else
    map_strided(y.data<To>(), s, Convert<To>{}, x.data<From>());
}

// C holds every value of the source's dtype: double for f64 and i32, float for the others.
template <class C>
__device__ C load_as(const std::byte* p, DType dtype, std::uint32_t i) {
  switch (dtype) {
    case DType::F64: return converted<C>(reinterpret_cast<const double*>(p)[i]);
    case DType::F32: return converted<C>(reinterpret_cast<const float*>(p)[i]);
    case DType::BF16: return converted<C>(reinterpret_cast<const bfloat16*>(p)[i]);
    case DType::I32: return converted<C>(reinterpret_cast<const std::int32_t*>(p)[i]);
    case DType::U8: return converted<C>(reinterpret_cast<const std::uint8_t*>(p)[i]);
    case DType::I8: return converted<C>(reinterpret_cast<const std::int8_t*>(p)[i]);
    case DType::E4M3: return converted<C>(reinterpret_cast<const float8_e4m3*>(p)[i]);
    default: return converted<C>(reinterpret_cast<const float8_e5m2*>(p)[i]);
  }
}
template <class C>
__device__ void store_as(std::byte* p, DType dtype, std::uint32_t i, C v) {
  switch (dtype) {
    case DType::F64: reinterpret_cast<double*>(p)[i] = converted<double>(v); break;
    case DType::F32: reinterpret_cast<float*>(p)[i] = converted<float>(v); break;
    case DType::BF16: reinterpret_cast<bfloat16*>(p)[i] = converted<bfloat16>(v); break;
    case DType::I32: reinterpret_cast<std::int32_t*>(p)[i] = converted<std::int32_t>(v); break;
    case DType::U8: reinterpret_cast<std::uint8_t*>(p)[i] = converted<std::uint8_t>(v); break;
    case DType::I8: reinterpret_cast<std::int8_t*>(p)[i] = converted<std::int8_t>(v); break;
    case DType::E4M3: reinterpret_cast<float8_e4m3*>(p)[i] = converted<float8_e4m3>(v); break;
    default: reinterpret_cast<float8_e5m2*>(p)[i] = converted<float8_e5m2>(v); break;
  }
}
template <class C>
__global__ void __launch_bounds__(kMapBlock)
    convert_kernel(std::byte* y, DType to, const std::byte* x, DType from, Walk<2> walk) {
  const std::uint32_t i = blockIdx.x * kMapBlock + threadIdx.x;
  if (i >= walk.numel) return;
  const auto at = walk(i);
  store_as(y, to, at.at[0], load_as<C>(x, from, at.at[1]));
}
void convert(std::byte* y, DType to, const std::byte* x, DType from, const Strided<2>& s) {
  if (!fits_walk(s)) {
    const auto [low, high, first] = halves(s);
    convert(y, to, x, from, low);
    convert(y + bytes_of(to, first[0]), to, x + bytes_of(from, first[1]), from, high);
    return;
  }
  const bool wide = from == DType::F64 || from == DType::I32;
  launch(wide ? convert_kernel<double> : convert_kernel<float>,
         static_cast<unsigned>(ceil_div(s.numel(), kMapBlock)), kMapBlock, 0, y, to, x, from,
         make_walk(s));
}

void copy_packed(Tensor& y, const Tensor& x) {
  NIBBLE_CHECK(y.dtype() == x.dtype() && y.is_contiguous() && x.is_contiguous(), "copy",
               "packed codes can only be copied between contiguous u4x2 tensors: got {} into {}",
               describe(x), describe(y));
  NIBBLE_CUDA_CHECK(cudaMemcpyAsync(y.raw(), x.raw(), static_cast<std::size_t>(x.bytes()),
                                    cudaMemcpyDeviceToDevice, stream()));
}

void set_bytes(Tensor& y, int value) {
  NIBBLE_CUDA_CHECK(cudaMemsetAsync(y.raw(), value, static_cast<std::size_t>(y.bytes()), stream()));
}

// 16 bytes of one repeated element.
struct Pattern {
  alignas(16) std::byte bytes[16];
  std::int64_t element;

  template <class Word>
  Constant<Word> constant() const {
    Constant<Word> c;
    std::memcpy(&c.value, bytes, sizeof(Word));
    return c;
  }
  bool uniform() const {
    for (const std::byte b : bytes)
      if (b != bytes[0]) return false;
    return true;
  }
};
Pattern pattern_of(DType dtype, double value) {
  Pattern p{};
  with_element_type(dtype, [&]<class T>(T) {
    const T v = converted<T>(value);
    p.element = sizeof(T);
    for (std::size_t at = 0; at < sizeof(p.bytes); at += sizeof(T))
      std::memcpy(p.bytes + at, &v, sizeof(T));
  });
  return p;
}

}  // namespace

void copy(Tensor& y, const Tensor& x) {
  if (x.numel() == 0) return;
  check_writable(y, "copy");
  const DType to = y.dtype(), from = x.dtype();
  if (to == DType::U4x2 || from == DType::U4x2) return copy_packed(y, x);
  const Strided<2> s = coalesce<2>(x.shape(), {y.strides(), x.strides()}, write_order(y));
  if (to == from)
    copy_same(y.raw(), x.raw(), bytes_of(to, 1), s);
  else if (to == DType::BF16 && from == DType::F32)
    convert_fast<bfloat16, float>(y, x, s);
  else if (to == DType::F32 && from == DType::BF16)
    convert_fast<float, bfloat16>(y, x, s);
  else
    convert(y.raw(), to, x.raw(), from, s);
}

void fill(Tensor& y, double value) {
  if (y.numel() == 0) return;
  check_writable(y, "fill");
  if (y.dtype() == DType::U4x2) {
    NIBBLE_CHECK(y.is_contiguous() && value >= 0 && value <= 15 && value == std::floor(value),
                 "fill", "got {} for {}, expected a code 0 to 15 and a contiguous tensor", value,
                 describe(y));
    return set_bytes(y, static_cast<int>(value) * 17);
  }
  const Pattern p = pattern_of(y.dtype(), value);
  const Strided<1> s = coalesce<1>(y.shape(), {y.strides()}, write_order(y));
  const bool runs = s.stride[0][s.rank - 1] == 1;
  if (runs && s.rank == 1 && p.uniform()) return set_bytes(y, static_cast<int>(p.bytes[0]));
  // One run goes in vectors of 16 bytes and a rest; several in the widest words that fit all.
  const std::uintptr_t bytes = runs && s.rank > 1 ? word_bytes(s, p.element) | address(y.raw())
                                                  : static_cast<std::uintptr_t>(p.element);
  with_unit(bytes, [&]<class Word>(Word) {
    auto* to = reinterpret_cast<Word*>(y.raw());
    const std::index_sequence<> no_inputs;
    if (runs && s.rank == 1)
      map(to, s.numel(), p.constant<Word>());
    else if (runs)
      launch_strided<1>(in_words(s, p.element, sizeof(Word)), no_inputs, p.constant<Word>(), to);
    else
      launch_strided<1>(s, no_inputs, p.constant<Word>(), to);
  });
}

}  // namespace nibble::cuda
