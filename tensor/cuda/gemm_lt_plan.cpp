#include "tensor/cuda/gemm_lt_plan.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>

namespace nibble::cuda::lt {
namespace {

constexpr const char* kOp = "gemm";

cudaDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::F32: return CUDA_R_32F;
    case DType::BF16: return CUDA_R_16BF;
    case DType::I8: return CUDA_R_8I;
    case DType::I32: return CUDA_R_32I;
    case DType::E4M3: return CUDA_R_8F_E4M3;
    case DType::E5M2: return CUDA_R_8F_E5M2;
    default: fail(kOp, "got dtype {}, expected f32, bf16, i8, i32, e4m3 or e5m2", dtype);
  }
}

bool is_integer(const LtProduct& p) { return p.c.dtype == DType::I32; }
bool is_fp8(DType dtype) { return dtype == DType::E4M3 || dtype == DType::E5M2; }
bool is_fp8(const LtProduct& p) { return is_fp8(p.a.dtype); }

// The header names the mode since CUDA 12.9.
#if CUBLAS_VERSION >= 120900
constexpr bool kHasManyScales = true;
#else
constexpr bool kHasManyScales = false;
#endif

void check(const LtProduct& p) {
  const DType in = p.a.dtype, out = p.c.dtype;
  const bool floats = is_fp8(in) && is_fp8(p.b.dtype) &&
                      (in == DType::E4M3 || p.b.dtype == DType::E4M3) &&
                      (out == DType::BF16 || out == DType::F32);
  const bool types = floats || (in == p.b.dtype &&
                                ((in == DType::F32 && out == DType::F32) ||
                                 (in == DType::BF16 && (out == DType::BF16 || out == DType::F32)) ||
                                 (in == DType::I8 && out == DType::I32)));
  NIBBLE_CHECK(types, kOp,
               "got {} x {} -> {}, expected f32 x f32 -> f32, bf16 x bf16 -> bf16 or f32, "
               "i8 x i8 -> i32, or e4m3 x e4m3 or e5m2 -> bf16 or f32",
               in, p.b.dtype, out);
  NIBBLE_CHECK(floats || (p.scaling == LtScaling::None && !p.fast), kOp,
               "got {} x {} with scales or fast sums, expected fp8 operands", in, p.b.dtype);
  NIBBLE_CHECK(p.batch > 0 && p.m > 0 && p.n > 0 && p.k > 0 && !p.c.transposed, kOp,
               "got batch {} of [{}, {}] x [{}, {}]{}, expected positive extents and contiguous "
               "rows in the result",
               p.batch, p.m, p.k, p.k, p.n, p.c.transposed ? " into columns" : "");
}

template <class T>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, T value) {
  NIBBLE_CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof value));
}
template <class T>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
         T value) {
  NIBBLE_CUBLAS_CHECK(
      cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value));
}
template <class T>
void set(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute, T value) {
  NIBBLE_CUBLAS_CHECK(cublasLtMatrixLayoutSetAttribute(layout, attribute, &value, sizeof value));
}

// A [rows, cols] matrix of ours.
Layout make_layout(const LtMatrix& x, std::int64_t rows, std::int64_t cols, std::int64_t batch) {
  const std::int64_t run = x.transposed ? rows : cols, runs = x.transposed ? cols : rows;
  NIBBLE_CHECK(x.stride >= run, kOp, "runs of {} elements lie {} apart", run, x.stride);
  cublasLtMatrixLayout_t layout = nullptr;
  NIBBLE_CUBLAS_CHECK(cublasLtMatrixLayoutCreate(&layout, data_type(x.dtype),
                                                 static_cast<std::uint64_t>(run),
                                                 static_cast<std::uint64_t>(runs), x.stride));
  Layout owned(layout);
  if (batch > 1) {
    set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<std::int32_t>(batch));
    set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, x.batch_stride);
  }
  return owned;
}

// Scales' addresses are set before each product; planning wants some.
void set_scaling(cublasLtMatmulDesc_t operation, const LtProduct& p) {
  set(operation, CUBLASLT_MATMUL_DESC_FAST_ACCUM, static_cast<std::int8_t>(p.fast));
  if (p.bias_alignment != 0)
    set(operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<std::int32_t>(CUDA_R_16BF));
  if (p.scaling == LtScaling::None) return;
  const auto somewhere = reinterpret_cast<const void*>(std::uintptr_t{16});
  set(operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, somewhere);
  set(operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, somewhere);
#if CUBLAS_VERSION >= 120900
  const auto modes = [&](cublasLtMatmulMatrixScale_t a, cublasLtMatmulMatrixScale_t b) {
    set(operation, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, static_cast<std::int32_t>(b));
    set(operation, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, static_cast<std::int32_t>(a));
  };
  constexpr auto kRows = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F,
                 kRuns = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F,
                 kSquares = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F;
  switch (p.scaling) {
    case LtScaling::None:
    case LtScaling::Tensor: break;
    case LtScaling::Rows: modes(kRows, kRows); break;
    case LtScaling::Runs: modes(kRuns, kRuns); break;
    case LtScaling::RunsAndSquares: modes(kRuns, kSquares); break;
    case LtScaling::SquaresAndRuns: modes(kSquares, kRuns); break;
  }
#endif
}

Operation make_operation(const LtProduct& p) {
  cublasLtMatmulDesc_t operation = nullptr;
  // COMPUTE_32F is IEEE f32 for F32 inputs: TF32 would be COMPUTE_32F_FAST_TF32.
  NIBBLE_CUBLAS_CHECK(
      cublasLtMatmulDescCreate(&operation, is_integer(p) ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                               is_integer(p) ? CUDA_R_32I : CUDA_R_32F));
  Operation owned(operation);
  set(operation, CUBLASLT_MATMUL_DESC_TRANSA, p.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(operation, CUBLASLT_MATMUL_DESC_TRANSB, p.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (is_fp8(p)) set_scaling(operation, p);
  if (p.bias_alignment != 0) {
    set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    // Planning reads only the pointer's alignment; this one has exactly the promised one.
    set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
        reinterpret_cast<const void*>(static_cast<std::uintptr_t>(p.bias_alignment)));
  }
  return owned;
}

Preference make_preference(const LtProduct& p) {
  cublasLtMatmulPreference_t preference = nullptr;
  NIBBLE_CUBLAS_CHECK(cublasLtMatmulPreferenceCreate(&preference));
  Preference owned(preference);
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{kBlasWorkspace});
  // A split contraction may only be summed in the compute type, in a pass of its own: neither in
  // place nor rounded to the output type between the parts.
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  const auto align = [&](cublasLtMatmulPreferenceAttributes_t attribute, const LtMatrix& x) {
    set(preference, attribute, static_cast<std::uint32_t>(x.alignment));
  };
  align(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, p.b);
  align(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, p.a);
  align(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, p.c);
  align(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, p.c);
  return owned;
}

// f32 products must not pass through tensor cores, which round the operands (TF32) or emulate.
bool is_acceptable(const LtProduct& p, const cublasLtMatmulHeuristicResult_t& found) {
  if (found.state != CUBLAS_STATUS_SUCCESS || found.workspaceSize > kBlasWorkspace) return false;
  if (p.a.dtype != DType::F32) return true;
  std::uint64_t flags = 0;
  std::size_t written = 0;
  NIBBLE_CUBLAS_CHECK(cublasLtMatmulAlgoCapGetAttribute(
      &found.algo, CUBLASLT_ALGO_CAP_NUMERICAL_IMPL_FLAGS, &flags, sizeof flags, &written));
  return (flags & CUBLASLT_NUMERICAL_IMPL_FLAGS_TENSOR_OP_MASK) == 0;
}

template <class T>
T setting(const cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute) {
  T value{};
  std::size_t written = 0;
  NIBBLE_CUBLAS_CHECK(
      cublasLtMatmulAlgoConfigGetAttribute(&algorithm, attribute, &value, sizeof value, &written));
  return value;
}

// The library documents that an algorithm's words may be stored and restored under one version.
constexpr std::string_view kPlanWord = "lt ";
std::optional<cublasLtMatmulAlgo_t> parse_plan(std::string_view text) {
  cublasLtMatmulAlgo_t algorithm{};
  if (!text.starts_with(kPlanWord)) return std::nullopt;
  text.remove_prefix(kPlanWord.size());
  if (text.size() != std::size(algorithm.data) * 16) return std::nullopt;
  for (std::uint64_t& word : algorithm.data) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + 16, word, 16);
    if (error != std::errc{} || end != text.data() + 16) return std::nullopt;
    text.remove_prefix(16);
  }
  return algorithm;
}

}  // namespace

LtPlan describe(const LtProduct& p) {
  check(p);
  LtPlan plan;
  plan.operation = make_operation(p);
  plan.first = make_layout(p.b, p.k, p.n, p.batch);
  plan.second = make_layout(p.a, p.m, p.k, p.batch);
  plan.result = make_layout(p.c, p.m, p.n, p.batch);
  return plan;
}

// What the library suggests and we accept, its order kept.
std::vector<cublasLtMatmulAlgo_t> suggestions(const LtProduct& p, const LtPlan& plan, int most) {
  if (p.scaling >= LtScaling::Rows && !kHasManyScales) return {};
  const Preference preference = make_preference(p);
  std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<std::size_t>(most));
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      blas(), plan.operation.get(), plan.first.get(), plan.second.get(), plan.result.get(),
      plan.result.get(), preference.get(), most, found.data(), &count);
  // A device without a scaling mode says one or the other.
  if (status == CUBLAS_STATUS_NOT_SUPPORTED ||
      (status == CUBLAS_STATUS_INVALID_VALUE && p.scaling >= LtScaling::Rows))
    return {};
  NIBBLE_CUBLAS_CHECK(status);
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < count; ++i)
    if (const auto& f = found[static_cast<std::size_t>(i)]; is_acceptable(p, f))
      algorithms.push_back(f.algo);
  return algorithms;
}

std::string plan_text(const cublasLtMatmulAlgo_t& algorithm) {
  std::string text(kPlanWord);
  for (const std::uint64_t word : algorithm.data) text += fmt::format("{:016x}", word);
  return text;
}
// Held to what suggestions are held to: a table is a file that anyone may have written.
cublasLtMatmulAlgo_t checked_plan(const LtProduct& p, const LtPlan& plan, const std::string& text) {
  const auto algorithm = parse_plan(text);
  NIBBLE_CHECK(algorithm, "plans", "{}: got '{}', expected '{}' and 128 hexadecimal digits",
               lt_key(p), text, kPlanWord);
  cublasLtMatmulHeuristicResult_t result{};
  const cublasStatus_t status =
      cublasLtMatmulAlgoCheck(blas(), plan.operation.get(), plan.first.get(), plan.second.get(),
                              plan.result.get(), plan.result.get(), &*algorithm, &result);
  bool repeatable = false;
  if (status == CUBLAS_STATUS_SUCCESS) {
    result.algo = *algorithm;
    const auto scheme = setting<std::uint32_t>(*algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
    repeatable = is_acceptable(p, result) && (scheme == CUBLASLT_REDUCTION_SCHEME_NONE ||
                                              scheme == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
  }
  NIBBLE_CHECK(repeatable, "plans",
               "{}: got an algorithm that cuBLASLt {} does not take for it ({}); measure again "
               "with nibble tune",
               lt_key(p), cublasLtGetVersion(), cublasLtGetStatusString(status));
  return *algorithm;
}

std::string describe_algorithm(const cublasLtMatmulAlgo_t& a) {
  return fmt::format("algo {}, tile {}, stages {}, split {}",
                     setting<std::int32_t>(a, CUBLASLT_ALGO_CONFIG_ID),
                     setting<std::uint32_t>(a, CUBLASLT_ALGO_CONFIG_TILE_ID),
                     setting<std::uint32_t>(a, CUBLASLT_ALGO_CONFIG_STAGES_ID),
                     setting<std::uint32_t>(a, CUBLASLT_ALGO_CONFIG_SPLITK_NUM));
}

void set_pointers(const LtPlan& plan, const LtProduct& product, const LtPointers& at) {
  if (product.bias_alignment != 0)
    set(plan.operation.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, at.bias);
  if (product.scaling != LtScaling::None) {
    set(plan.operation.get(), CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, at.b_scale);
    set(plan.operation.get(), CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, at.a_scale);
  }
}

}  // namespace nibble::cuda::lt
