#include "gemm.h"

#include <algorithm>

namespace nibble::spike {
namespace {

constexpr std::size_t kWorkspace = std::size_t{64} << 20;
constexpr int kHeuristics = 8;

void check_blas(cublasStatus_t status,
                const std::source_location& at = std::source_location::current()) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error(std::string(at.file_name()) + ":" + std::to_string(at.line()) +
                           ": cuBLASLt status " + std::to_string(int(status)));
}

cublasLtMatrixLayout_t layout(cudaDataType_t type, int rows, int cols, int ld, int batch,
                              long long stride) {
  cublasLtMatrixLayout_t l = nullptr;
  check_blas(cublasLtMatrixLayoutCreate(&l, type, rows, cols, ld));
  if (batch > 1) {
    const std::int32_t count = batch;
    const std::int64_t step = stride;
    check_blas(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                                sizeof count));
    check_blas(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                                &step, sizeof step));
  }
  return l;
}

}  // namespace

struct GemmLibrary::Plan {
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;
  cublasLtMatmulAlgo_t algo{};
  bool tuned = false;
  ~Plan() {
    cublasLtMatrixLayoutDestroy(d);
    cublasLtMatrixLayoutDestroy(b);
    cublasLtMatrixLayoutDestroy(a);
    cublasLtMatmulDescDestroy(desc);
  }
};

GemmLibrary::GemmLibrary() : workspace_(kWorkspace) { check_blas(cublasLtCreate(&handle_)); }
GemmLibrary::~GemmLibrary() {
  plans_.clear();
  cublasLtDestroy(handle_);
}

void GemmLibrary::run(const GemmShape& s, const void* a, const void* b, void* d, double alpha,
                      const void* bias, const void* c) {
  const bool integer = s.in == CUDA_R_8I, wide = s.in == CUDA_R_64F;
  auto& plan = plans_[s];
  if (!plan) {
    plan = std::make_unique<Plan>();
    const cublasComputeType_t compute = integer ? CUBLAS_COMPUTE_32I
                                        : wide  ? CUBLAS_COMPUTE_64F
                                                : CUBLAS_COMPUTE_32F;
    const cudaDataType_t scale = integer ? CUDA_R_32I : wide ? CUDA_R_64F : CUDA_R_32F;
    check_blas(cublasLtMatmulDescCreate(&plan->desc, compute, scale));
    const cublasOperation_t ta = s.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t tb = s.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    check_blas(
        cublasLtMatmulDescSetAttribute(plan->desc, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta));
    check_blas(
        cublasLtMatmulDescSetAttribute(plan->desc, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb));
    if (s.bias) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      check_blas(cublasLtMatmulDescSetAttribute(plan->desc, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                &epilogue, sizeof epilogue));
    }
    plan->a =
        layout(s.in, s.trans_a ? s.k : s.m, s.trans_a ? s.m : s.k, s.lda, s.batch, s.stride_a);
    plan->b =
        layout(s.in, s.trans_b ? s.n : s.k, s.trans_b ? s.k : s.n, s.ldb, s.batch, s.stride_b);
    plan->d = layout(s.out, s.m, s.n, s.ldd, s.batch, s.stride_d);
  }
  if (s.bias)
    check_blas(cublasLtMatmulDescSetAttribute(plan->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                              sizeof bias));
  const float alpha_f = float(alpha), beta_f = s.add ? 1.0f : 0.0f;
  const double beta_d = s.add ? 1.0 : 0.0;
  const std::int32_t alpha_i = 1, beta_i = 0;
  const void* pa = integer ? static_cast<const void*>(&alpha_i)
                   : wide  ? &alpha
                           : static_cast<const void*>(&alpha_f);
  const void* pb = integer ? static_cast<const void*>(&beta_i)
                   : wide  ? &beta_d
                           : static_cast<const void*>(&beta_f);
  const void* add = s.add ? c : d;
  auto launch = [&](const cublasLtMatmulAlgo_t& algo) {
    return cublasLtMatmul(handle_, plan->desc, pa, a, plan->a, b, plan->b, pb, add, plan->d, d,
                          plan->d, &algo, workspace_.get(), kWorkspace, nullptr);
  };
  if (!plan->tuned) {
    cublasLtMatmulPreference_t preference = nullptr;
    check_blas(cublasLtMatmulPreferenceCreate(&preference));
    check_blas(cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspace, sizeof kWorkspace));
    cublasLtMatmulHeuristicResult_t found[kHeuristics];
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle_, plan->desc, plan->a, plan->b, plan->d, plan->d,
                                       preference, kHeuristics, found, &count);
    cublasLtMatmulPreferenceDestroy(preference);
    check_blas(status);
    float best = -1;
    Event start, stop;
    for (int i = 0; i < count; ++i) {
      if (launch(found[i].algo) != CUBLAS_STATUS_SUCCESS) continue;
      float times[5];
      for (float& t : times) {
        start.record();
        check_blas(launch(found[i].algo));
        stop.record();
        t = stop.since(start);
      }
      std::sort(times, times + 5);
      if (best < 0 || times[2] < best) {
        best = times[2];
        plan->algo = found[i].algo;
      }
    }
    if (best < 0) throw std::runtime_error("cuBLASLt: no algorithm runs this shape");
    plan->tuned = true;
  }
  check_blas(launch(plan->algo));
}

}  // namespace nibble::spike
