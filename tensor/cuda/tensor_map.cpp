#include "tensor/cuda/tensor_map.h"

#include <cudaTypedefs.h>

#include "tensor/cuda/context.h"

namespace nibble::cuda {
namespace {

// Through the runtime, so that programs link without the driver's library.
PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  static const auto function = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found{};
    NIBBLE_CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                                       cudaEnableDefault, &found));
    NIBBLE_CHECK(found == cudaDriverEntryPointSuccess && entry, "cuda",
                 "the driver has no cuTensorMapEncodeTiled; it needs CUDA 12.0 or later");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry);
  }();
  return function;
}

}  // namespace

CUtensorMap swizzled_map(const void* base, std::int64_t rows, std::int64_t cols,
                         std::int64_t row_bytes, int element_bytes, std::uint32_t box_rows) {
  CUtensorMap map;
  const cuuint64_t extents[] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(row_bytes)};
  const cuuint32_t box[] = {128u / static_cast<cuuint32_t>(element_bytes), box_rows};
  const cuuint32_t steps[] = {1, 1};
  const CUresult result = encoder()(
      &map, element_bytes == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
      2, const_cast<void*>(base), extents, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  NIBBLE_CHECK(result == CUDA_SUCCESS, "cuda",
               "no tensor map: driver error {} for [{}, {}], rows of {} bytes at {}",
               static_cast<int>(result), rows, cols, row_bytes, base);
  return map;
}

CUtensorMap box_map(const void* base, std::int64_t rows, std::int64_t cols, int element_bytes,
                    std::uint32_t box_rows, std::uint32_t box_cols) {
  CUtensorMap map;
  const cuuint64_t extents[] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(cols * element_bytes)};
  const cuuint32_t box[] = {box_cols, box_rows};
  const cuuint32_t steps[] = {1, 1};
  const CUresult result = encoder()(
      &map, element_bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
      2, const_cast<void*>(base), extents, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  NIBBLE_CHECK(result == CUDA_SUCCESS, "cuda",
               "no tensor map: driver error {} for [{}, {}] of {} bytes each at {}",
               static_cast<int>(result), rows, cols, element_bytes, base);
  return map;
}

CUtensorMap heads_map(const void* base, const HeadsExtents& n, std::int64_t batch_stride,
                      std::int64_t row_stride, std::int64_t head_stride, std::uint32_t box_rows) {
  CUtensorMap map;
  const auto unsign = [](std::int64_t x) { return static_cast<cuuint64_t>(x); };
  // The stride of a single element means nothing, and may be one that the driver refuses.
  const auto bytes = [&](std::int64_t extent, std::int64_t stride) {
    return extent == 1 ? cuuint64_t{16} : unsign(2 * stride);
  };
  const cuuint64_t extents[] = {unsign(n.width), unsign(n.rows), unsign(n.heads), unsign(n.batch)};
  const cuuint64_t strides[] = {bytes(n.rows, row_stride), bytes(n.heads, head_stride),
                                bytes(n.batch, batch_stride)};
  const cuuint32_t box[] = {64, box_rows, 1, 1};
  const cuuint32_t steps[] = {1, 1, 1, 1};
  const CUresult result =
      encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void*>(base), extents,
                strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  NIBBLE_CHECK(
      result == CUDA_SUCCESS, "cuda",
      "no tensor map: driver error {} for heads [{}, {}, {}, {}], strides {}, {}, {} at {}",
      static_cast<int>(result), n.batch, n.rows, n.heads, n.width, batch_stride, row_stride,
      head_stride, base);
  return map;
}

}  // namespace nibble::cuda
