// The memory-bound parts of products of codes. Scaling int32 sums reads 4 bytes a result and writes
// 2 or 4; rescale_product reads 4 (8 beyond the first block) and writes 4. A block takes 256
// columns by 16 rows, a thread four neighbouring columns of four rows, so that scales of columns
// are looked up once for four results.
#include "quant/cuda/product.cuh"

namespace nibble::cuda {
namespace {

constexpr std::uint32_t kLanes = 64, kRowsAtOnce = 4, kRowsEach = 4;
constexpr std::uint32_t kBlockCols = kLanes * 4, kBlockRows = kRowsAtOnce * kRowsEach;

// body(row, column, scale of the row, scales of four columns) for this thread's share of [m, n],
// which are rows [first, first + m) of a.
template <class Body>
__device__ void for_quads(std::uint32_t m, std::uint32_t n, std::uint32_t first, const Scales& a,
                          const Scales& b, std::uint32_t block, Body body) {
  const std::uint32_t col = blockIdx.y * kBlockCols + threadIdx.x * 4;
  const std::uint32_t row0 = blockIdx.x * kBlockRows + threadIdx.y;
  if (col >= n) return;
  float sb[4];
#pragma unroll
  for (std::uint32_t j = 0; j < 4; ++j) sb[j] = b.at(min(col + j, n - 1), block);
#pragma unroll
  for (std::uint32_t i = 0; i < kRowsEach; ++i) {
    const std::uint32_t row = row0 + i * kRowsAtOnce;
    if (row < m) body(row, col, a.at(first + row, block), sb);
  }
}

template <class Kernel, class... Args>
void launch_quads(Kernel kernel, std::int64_t m, std::int64_t n, Args... args) {
  launch(kernel,
         dim3(static_cast<unsigned>(ceil_div(m, kBlockRows)),
              static_cast<unsigned>(ceil_div(n, kBlockCols))),
         dim3(kLanes, kRowsAtOnce), 0, args...);
}

// out: rows [first, first + its m) of c; n is a multiple of 4.
__global__ void __launch_bounds__(kLanes* kRowsAtOnce)
    scale_sums_kernel(BiasedOutput out, const std::int32_t* sums, std::uint32_t first, Scales a,
                      Scales b) {
  for_quads(out.m, out.n, first, a, b, 0,
            [&](std::uint32_t row, std::uint32_t col, float sa, const float(&sb)[4]) {
              const auto s =
                  load_vector<std::int32_t, 4>(sums + static_cast<std::int64_t>(row) * out.n + col);
              float f[4];
#pragma unroll
              for (int j = 0; j < 4; ++j) f[j] = scale_whole(__int2float_rn(s[j]), sa, sb[j]);
              out.store4(f, row, col);
            });
}

__global__ void __launch_bounds__(kLanes* kRowsAtOnce)
    rescale_kernel(float* f, const float* part, std::uint32_t m, std::uint32_t n, Scales a,
                   Scales b, std::uint32_t index, bool whole, bool vectors) {
  for_quads(m, n, 0, a, b, index,
            [&](std::uint32_t row, std::uint32_t col, float sa, const float(&sb)[4]) {
              const std::int64_t at = static_cast<std::int64_t>(row) * n + col;
              Vector<float, 4> y{}, before{};
              const auto each = [&](auto body) {
#pragma unroll
                for (int j = 0; j < 4; ++j)
                  if (vectors || col + static_cast<std::uint32_t>(j) < n) body(j);
              };
              if (vectors) {
                y = load_vector<float, 4>(part + at);
                if (index != 0) before = load_vector<float, 4>(f + at);
              } else {
                each([&](int j) {
                  y[j] = part[at + j];
                  if (index != 0) before[j] = f[at + j];
                });
              }
#pragma unroll
              for (int j = 0; j < 4; ++j)
                y[j] = whole ? scale_whole(y[j], sa, sb[j])
                             : __fmaf_rn(y[j], __fmul_rn(sa, sb[j]), before[j]);
              if (vectors)
                store_vector(f + at, y);
              else
                each([&](int j) { f[at + j] = y[j]; });
            });
}

// One 16-byte chunk of a padded row a thread.
__global__ void __launch_bounds__(256)
    pad_codes_kernel(std::int8_t* to, Codes codes, std::uint32_t k, std::uint32_t chunks,
                     std::int64_t n) {
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < n;
       i += std::int64_t{gridDim.x} * blockDim.x) {
    const auto row = static_cast<std::uint32_t>(i / chunks);
    const std::uint32_t first = static_cast<std::uint32_t>(i % chunks) * 16;
    Vector<std::int8_t, 16> v;
#pragma unroll
    for (std::uint32_t j = 0; j < 16; ++j)
      v[static_cast<int>(j)] =
          first + j < k ? static_cast<std::int8_t>(codes.at(row, first + j)) : std::int8_t{0};
    store_vector(to + i * 16, v);
  }
}

}  // namespace

std::int64_t row_bytes(const Tensor& codes) {
  return codes.is_contiguous() ? bytes_of(codes.dtype(), codes.size(1)) : codes.strides()[0];
}

Tensor code_rows(const CodeOperand& x, std::int64_t k) {
  const bool bytes = x.codes.dtype() == DType::U8 || x.codes.dtype() == DType::I8;
  const bool whole = x.codes.size(1) % 16 == 0 && row_bytes(x.codes) % 16 == 0;
  return bytes && whole && is_aligned(x.codes.raw(), 16) ? x.codes : padded_codes(x, k);
}

Tensor padded_codes(const CodeOperand& x, std::int64_t k) {
  const DType dtype = x.codes.dtype() == DType::U8 ? DType::U8 : DType::I8;
  if (x.codes.dtype() == dtype && x.codes.is_contiguous() && x.codes.size(1) % 16 == 0 &&
      is_aligned(x.codes.raw(), 16))
    return x.codes;
  const std::int64_t rows = x.codes.size(0), chunks = ceil_div(k, 16);
  Tensor padded = Tensor::empty({rows, chunks * 16}, dtype, x.codes.device());
  const std::int64_t n = rows * chunks;
  launch(pad_codes_kernel, dim3(grid_for(n, 256)), dim3(256), 0,
         reinterpret_cast<std::int8_t*>(padded.raw()), codes_of(x), static_cast<std::uint32_t>(k),
         static_cast<std::uint32_t>(chunks), n);
  return padded;
}

void scale_sums(const IntProduct& p, const Tensor& sums, std::int64_t first) {
  IntProduct slab = p;
  slab.c = p.c.slice(0, first, first + sums.size(0));
  launch_quads(scale_sums_kernel, slab.m(), slab.n(), biased_output_of(slab),
               sums.data<std::int32_t>(), static_cast<std::uint32_t>(first), scales_of(p.a),
               scales_of(p.b));
}

void rescale_product(Tensor& f, const Tensor& part, const CodeOperand& a, const CodeOperand& b,
                     std::int64_t index, std::int64_t blocks) {
  const std::int64_t m = f.size(0), n = f.size(1);
  if (m == 0 || n == 0) return;
  const bool vectors = n % 4 == 0 && is_aligned(f.raw(), 16) && is_aligned(part.raw(), 16);
  launch_quads(rescale_kernel, m, n, f.data<float>(), part.data<float>(),
               static_cast<std::uint32_t>(m), static_cast<std::uint32_t>(n), scales_of(a),
               scales_of(b), static_cast<std::uint32_t>(index), blocks == 1, vectors);
}

}  // namespace nibble::cuda
