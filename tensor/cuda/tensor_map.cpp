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

}  // namespace nibble::cuda
