// Descriptions of matrices for the copy engine (compute capability 9.0).
#pragma once

#include <cuda.h>

#include <cstdint>

namespace nibble::cuda {

// Boxes of `box_rows` rows by 128 bytes of a row-major matrix, 128-byte swizzled in shared memory.
// `base` and `row_bytes` are multiples of 16; element: 1 or 2 bytes. Throws what the driver says.
CUtensorMap swizzled_map(const void* base, std::int64_t rows, std::int64_t cols,
                         std::int64_t row_bytes, int element_bytes, std::uint32_t box_rows);

}  // namespace nibble::cuda
