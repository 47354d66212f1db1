// Descriptions of matrices for the copy engine (compute capability 9.0).
#pragma once

#include <cuda.h>

#include <cstdint>

namespace nibble::cuda {

// Boxes of `box_rows` rows by 128 bytes of a row-major matrix, 128-byte swizzled in shared memory.
// `base` and `row_bytes` are multiples of 16; element: 1 or 2 bytes. Throws what the driver says.
CUtensorMap swizzled_map(const void* base, std::int64_t rows, std::int64_t cols,
                         std::int64_t row_bytes, int element_bytes, std::uint32_t box_rows);
// Boxes of `box_rows` by `box_cols` of a row-major matrix of floats of 2 or 4 bytes, whose rows are
// multiples of 16 bytes; in shared memory as they are.
CUtensorMap box_map(const void* base, std::int64_t rows, std::int64_t cols, int element_bytes,
                    std::uint32_t box_rows, std::uint32_t box_cols);
// As swizzled_map, of `heads` [batch, rows, heads, width] of 2-byte elements, strides in elements:
// boxes of `box_rows` rows of one head by 64 columns. Strides of extents above 1 are multiples of
// 16 bytes.
struct HeadsExtents {
  std::int64_t batch, rows, heads, width;
};
CUtensorMap heads_map(const void* base, const HeadsExtents& extents, std::int64_t batch_stride,
                      std::int64_t row_stride, std::int64_t head_stride, std::uint32_t box_rows);

}  // namespace nibble::cuda
