// What the quantizer's CPU kernels share: rows of x as f32, tiles of a row, and rows in parallel.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "quant/spec.h"
#include "tensor/tensor.h"
#include "tensor/thread_pool.h"

namespace nibble::cpu {

// Columns handled at a time: the f32 staging buffers of a piece stay in L1.
inline constexpr std::int64_t kPiece = 1024;
// Elements of one parallel chunk.
inline constexpr std::int64_t kChunkElements = 1 << 16;

// Calls fn(first_row, last_row) in parallel over fixed chunks of whole rows.
template <class F>
void for_row_chunks(std::int64_t rows, std::int64_t cols, F&& fn) {
  parallel_for(rows, std::max<std::int64_t>(1, kChunkElements / std::max<std::int64_t>(cols, 1)),
               std::forward<F>(fn));
}

// Reads a matrix of any float dtype as f32.
class RowReader {
 public:
  explicit RowReader(const Tensor& x) : raw_(x.raw()), cols_(x.size(1)), dtype_(x.dtype()) {}
  // n elements from (row, col): a pointer into x, or into `buffer` after conversion.
  const float* read(std::int64_t row, std::int64_t col, std::int64_t n, float* buffer) const {
    const std::int64_t at = row * cols_ + col;
    if (dtype_ == DType::F32) return reinterpret_cast<const float*>(raw_) + at;
    if (dtype_ == DType::BF16) {
      const auto* p = reinterpret_cast<const bfloat16*>(raw_) + at;
      for (std::int64_t j = 0; j < n; ++j) buffer[j] = static_cast<float>(p[j]);
    } else {
      const auto* p = reinterpret_cast<const double*>(raw_) + at;
      for (std::int64_t j = 0; j < n; ++j) buffer[j] = static_cast<float>(p[j]);
    }
    return buffer;
  }

 private:
  const std::byte* raw_;
  std::int64_t cols_;
  DType dtype_;
};

// Writes f32 values into a matrix of any float dtype.
class RowWriter {
 public:
  explicit RowWriter(Tensor& y) : raw_(y.raw()), cols_(y.size(1)), dtype_(y.dtype()) {}
  // Where the values of a piece should be put so that write() need not copy them.
  float* target(std::int64_t row, std::int64_t col, float* buffer) const {
    return dtype_ == DType::F32 ? reinterpret_cast<float*>(raw_) + row * cols_ + col : buffer;
  }
  void write(std::int64_t row, std::int64_t col, std::int64_t n, const float* values) const {
    const std::int64_t at = row * cols_ + col;
    if (dtype_ == DType::BF16) {
      auto* p = reinterpret_cast<bfloat16*>(raw_) + at;
      for (std::int64_t j = 0; j < n; ++j) p[j] = bfloat16(values[j]);
    } else if (dtype_ == DType::F64) {
      auto* p = reinterpret_cast<double*>(raw_) + at;
      for (std::int64_t j = 0; j < n; ++j) p[j] = static_cast<double>(values[j]);
    }
  }

 private:
  std::byte* raw_;
  std::int64_t cols_;
  DType dtype_;
};

}  // namespace nibble::cpu
