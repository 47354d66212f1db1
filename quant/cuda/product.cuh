// What the kernels of a product of codes share: codes, scales, and the rounding of results.
#pragma once

#include "quant/cuda/int_gemm.h"
#include "tensor/cuda/common.cuh"

namespace nibble::cuda {

// Shared memory by its address, which the compiler then keeps in a register.
__device__ inline void store_shared(std::uint32_t to, float x) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"(x) : "memory");
}
__device__ inline void store_shared(std::uint32_t to, float x, float y) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(x), "f"(y) : "memory");
}

// A CodeOperand's codes as kernels see them.
enum class Payload : std::uint8_t { I8, U8, I4, U4 };
struct Codes {
  const std::uint8_t* bytes;
  std::int64_t row_bytes;
  Payload payload;

  __device__ std::int32_t at(std::uint32_t row, std::uint32_t k) const {
    const std::uint8_t* const r = bytes + row * row_bytes;
    if (payload == Payload::I8) return static_cast<std::int8_t>(__ldg(r + k));
    if (payload == Payload::U8) return __ldg(r + k);
    const std::int32_t nibble = (__ldg(r + k / 2) >> (4 * (k % 2))) & 15;
    return payload == Payload::I4 ? (nibble ^ 8) - 8 : nibble;
  }
};
inline Codes codes_of(const CodeOperand& x) {
  const DType dtype = x.codes.dtype();
  const Payload payload = dtype == DType::I8   ? Payload::I8
                          : dtype == DType::U8 ? Payload::U8
                          : x.is_signed        ? Payload::I4
                                               : Payload::U4;
  return {reinterpret_cast<const std::uint8_t*>(x.codes.raw()), row_bytes(x.codes), payload};
}

// A CodeOperand's scales as kernels see them; extents are below 2^31.
struct Scales {
  const float* scales;
  const float* zeros;     // may be null
  std::uint32_t columns;  // 1, or one for each contraction block
  std::uint32_t pitch;    // from a row of them to the next
  std::uint32_t tile_rows;

  __device__ std::int64_t index(std::uint32_t row, std::uint32_t block) const {
    return static_cast<std::int64_t>(row / tile_rows) * pitch + (columns == 1 ? 0 : block);
  }
  __device__ float at(std::uint32_t row, std::uint32_t block) const {
    return __ldg(scales + index(row, block));
  }
};
inline Scales scales_of(const CodeOperand& x) {
  const std::int64_t columns = x.scales.size(1);
  return {x.scales.data<float>(), x.zeros ? x.zeros.data<float>() : nullptr,
          static_cast<std::uint32_t>(columns),
          static_cast<std::uint32_t>(x.scales.size(0) > 1 ? x.scales.strides()[0] : columns),
          static_cast<std::uint32_t>(x.tile_rows)};
}

// A product's only block, or block `index` of several; written out because nvcc would fuse the
// first and the CPU does not.
__device__ inline float scale_whole(float sum, float sa, float sb) {
  return __fmul_rn(__fmul_rn(sum, sa), sb);
}

// Σ (qa + za)(qb + zb) over k codes from Σ qa·qb and the rows' sums of codes: in f64, each term
// rounded as on the CPU.
__device__ inline float with_zeros(std::int64_t products, double za, double zb, std::int64_t rows_a,
                                   std::int64_t rows_b, double k) {
  double sum = static_cast<double>(products);
  sum = __dadd_rn(sum, __dmul_rn(za, static_cast<double>(rows_b)));
  sum = __dadd_rn(sum, __dmul_rn(zb, static_cast<double>(rows_a)));
  sum = __dadd_rn(sum, __dmul_rn(__dmul_rn(za, zb), k));
  return static_cast<float>(sum);
}

// A bias as it is given: f32, or bf16, which is exact in f32.
struct Bias {
  const void* values;  // may be null
  bool is_bf16;

  __device__ explicit operator bool() const { return values != nullptr; }
  __device__ float at(std::uint32_t col) const {
    return is_bf16 ? to_float(static_cast<const bfloat16*>(values)[col])
                   : __ldg(static_cast<const float*>(values) + col);
  }
};

// c: results f become c (+)= f, rounded once. Its dtype is a run-time branch: the kernels are
// large, and it is taken once a result.
struct Output {
  void* c;
  std::int64_t stride;
  std::uint32_t m, n;
  bool accumulate, is_bf16, vectors;

  template <class T>
  __device__ T result(float f, T before) const {
    return from_float<T>(accumulate ? __fadd_rn(to_float(before), f) : f);
  }
  template <class T>
  __device__ void store_as(float f, std::uint32_t row, std::uint32_t col) const {
    if (row >= m || col >= n) return;
    T& to = static_cast<T*>(c)[row * stride + col];
    to = result(f, accumulate ? to : T());
  }
  // kCount columns, from a multiple of kCount.
  template <class T, int kCount>
  __device__ void store_run(const float (&f)[kCount], std::uint32_t row, std::uint32_t col) const {
    if (!vectors || col + kCount > n) {
#pragma unroll
      for (int j = 0; j < kCount; ++j) store_as<T>(f[j], row, col + static_cast<std::uint32_t>(j));
      return;
    }
    if (row >= m) return;
    T* const to = static_cast<T*>(c) + row * stride + col;
    Vector<T, kCount> v{};
    if (accumulate) v = load_vector<T, kCount>(to);
#pragma unroll
    for (int j = 0; j < kCount; ++j) v[j] = result(f[j], v[j]);
    store_vector(to, v);
  }

  __device__ void store(float f, std::uint32_t row, std::uint32_t col) const {
    is_bf16 ? store_as<bfloat16>(f, row, col) : store_as<float>(f, row, col);
  }
  // Four columns, from a multiple of 4.
  __device__ void store4(const float (&f)[4], std::uint32_t row, std::uint32_t col) const {
    is_bf16 ? store_run<bfloat16>(f, row, col) : store_run<float>(f, row, col);
  }
};
inline Output output_of(const IntProduct& p) {
  const DType dtype = p.c.dtype();
  NIBBLE_CHECK(dtype == DType::F32 || dtype == DType::BF16, "int_gemm",
               "got a result of dtype {}, expected f32 or bf16", dtype);
  const auto m = static_cast<std::uint32_t>(p.m()), n = static_cast<std::uint32_t>(p.n());
  void* const c = const_cast<std::byte*>(p.c.raw());
  const std::int64_t stride = m == 1 ? n : p.c.strides()[0];
  const auto four = static_cast<std::size_t>(bytes_of(dtype, 4));
  return {c,
          stride,
          m,
          n,
          p.accumulate,
          dtype == DType::BF16,
          (m == 1 || stride % 4 == 0) && is_aligned(c, four)};
}

inline Bias bias_of(const IntProduct& p) {
  if (!p.bias) return {nullptr, false};
  return {p.bias.raw(), p.bias.dtype() == DType::BF16};
}

// For kernels that add the bias as they store.
struct BiasedOutput : Output {
  Bias bias;

  __device__ float biased(float f, std::uint32_t col) const {
    return bias && col < n ? __fadd_rn(f, bias.at(col)) : f;
  }
  __device__ void store(float f, std::uint32_t row, std::uint32_t col) const {
    Output::store(biased(f, col), row, col);
  }
  __device__ void store4(const float (&f)[4], std::uint32_t row, std::uint32_t col) const {
    float y[4];
#pragma unroll
    for (std::uint32_t j = 0; j < 4; ++j) y[j] = biased(f[j], col + j);
    Output::store4(y, row, col);
  }
};
inline BiasedOutput biased_output_of(const IntProduct& p) { return {output_of(p), bias_of(p)}; }

}  // namespace nibble::cuda
