// How the library is told of a product, and which of its algorithms are taken: the parts of
// gemm_lt.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tensor/cuda/gemm_lt.h"

namespace nibble::cuda::lt {

template <class T, cublasStatus_t (*kDestroy)(T*)>
struct Destroy {
  void operator()(T* p) const { (void)kDestroy(p); }
};
using Operation = std::unique_ptr<cublasLtMatmulDescOpaque_t,
                                  Destroy<cublasLtMatmulDescOpaque_t, cublasLtMatmulDescDestroy>>;
using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t,
                               Destroy<cublasLtMatrixLayoutOpaque_t, cublasLtMatrixLayoutDestroy>>;
using Preference =
    std::unique_ptr<cublasLtMatmulPreferenceOpaque_t,
                    Destroy<cublasLtMatmulPreferenceOpaque_t, cublasLtMatmulPreferenceDestroy>>;

// The library is column-major: it sees the transposed product cᵀ = bᵀ·aᵀ, so that its first operand
// is our b, its second our a, and a matrix of ours with contiguous rows is its untransposed one.
struct LtPlan {
  Operation operation;
  Layout first, second, result;
  std::optional<cublasLtMatmulAlgo_t> algorithm;  // none: the library does not serve the product
};

// Without an algorithm. Throws on what no product is (dtypes, extents).
LtPlan describe(const LtProduct& product);
// The addresses that are part of the operation; not for two threads at once.
void set_pointers(const LtPlan& plan, const LtProduct& product, const LtPointers& at);
// Up to `most` algorithms that the library suggests and that give the same bits in every run.
std::vector<cublasLtMatmulAlgo_t> suggestions(const LtProduct& product, const LtPlan& plan,
                                              int most);
// An algorithm as text; back, held to what suggestions are held to.
std::string plan_text(const cublasLtMatmulAlgo_t& algorithm);
cublasLtMatmulAlgo_t checked_plan(const LtProduct& product, const LtPlan& plan,
                                  const std::string& text);
std::string describe_algorithm(const cublasLtMatmulAlgo_t& algorithm);

}  // namespace nibble::cuda::lt
