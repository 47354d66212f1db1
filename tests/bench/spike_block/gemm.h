// cuBLASLt products in the column-major form the library speaks, the algorithm being the fastest of
// eight heuristics on the operands of the first call (a benchmark's choice; training never times).
#pragma once

#include <cublasLt.h>

#include <map>
#include <memory>

#include "device.h"

namespace nibble::spike {

/// D[m, n] = alpha · op(A)[m, k] · op(B)[k, n] (+ bias[m]) (+ C), column-major, `batch` times.
struct GemmShape {
  int m = 0, n = 0, k = 0;
  bool trans_a = false, trans_b = false;
  int lda = 0, ldb = 0, ldd = 0;
  cudaDataType_t in = CUDA_R_16BF, out = CUDA_R_16BF;
  bool bias = false, add = false;
  int batch = 1;
  long long stride_a = 0, stride_b = 0, stride_d = 0;
  auto operator<=>(const GemmShape&) const = default;
};

class GemmLibrary {
 public:
  GemmLibrary();
  ~GemmLibrary();
  GemmLibrary(const GemmLibrary&) = delete;
  GemmLibrary& operator=(const GemmLibrary&) = delete;
  /// Runs on the default stream. `c` (with shape.add) has D's layout and must not alias it.
  void run(const GemmShape& shape, const void* a, const void* b, void* d, double alpha = 1.0,
           const void* bias = nullptr, const void* c = nullptr);

 private:
  struct Plan;
  cublasLtHandle_t handle_ = nullptr;
  Buffer<std::uint8_t> workspace_;
  std::map<GemmShape, std::unique_ptr<Plan>> plans_;
};

}  // namespace nibble::spike
