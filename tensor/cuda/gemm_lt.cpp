#include "tensor/cuda/gemm_lt.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "tensor/cuda/gemm_lt_plan.h"
#include "tensor/product_plans.h"

namespace nibble::cuda {
namespace {

using lt::LtPlan;

constexpr int kSuggestions = 8;  // asked for

LtPlan make_plan(const LtProduct& p) {
  LtPlan plan = lt::describe(p);
  if (const std::string text = planned(lt_key(p)); !text.empty()) {
    plan.algorithm = lt::checked_plan(p, plan, text);
  } else if (const auto algorithms = lt::suggestions(p, plan, kSuggestions); !algorithms.empty()) {
    plan.algorithm = algorithms.front();
  }
  return plan;
}

void multiply(const LtProduct& product, const LtPlan& plan, const LtPointers& at) {
  lt::set_pointers(plan, product, at);
  const float alpha = 1, beta = product.accumulate ? 1 : 0;
  const std::int32_t int_alpha = 1, int_beta = product.accumulate ? 1 : 0;
  const bool integer = product.c.dtype == DType::I32;
  const void* const one = integer ? static_cast<const void*>(&int_alpha) : &alpha;
  const void* const keep = integer ? static_cast<const void*>(&int_beta) : &beta;
  NIBBLE_CUBLAS_CHECK(cublasLtMatmul(blas(), plan.operation.get(), one, at.b, plan.first.get(),
                                     at.a, plan.second.get(), keep, at.c, plan.result.get(), at.c,
                                     plan.result.get(), &*plan.algorithm, blas_workspace(),
                                     kBlasWorkspace, stream()));
}

// Never destroyed, like the contexts: the library may be gone before static objects are.
struct Cache {
  std::mutex mutex;  // also held while a plan runs, because its pointers are part of it
  std::map<LtProduct, LtPlan> plans;
  std::uint64_t version = 0;  // of the process's table
};
Cache& cache() {
  static std::mutex mutex;
  static auto* by_device = new std::map<int, Cache>;
  const std::lock_guard lock(mutex);
  return (*by_device)[current()];
}

std::string text_of(const LtMatrix& x) {
  return fmt::format("{}{}/{}/{}/{}", to_string(x.dtype), x.transposed ? "t" : "", x.stride,
                     x.batch_stride, x.alignment);
}

}  // namespace

bool lt_multiply(const LtProduct& product, const LtPointers& at) {
  Cache& known = cache();
  const std::lock_guard lock(known.mutex);
  if (const std::uint64_t now = product_plans_version(); known.version != now) {
    known.plans.clear();
    known.version = now;
  }
  auto entry = known.plans.find(product);
  if (entry == known.plans.end()) entry = known.plans.emplace(product, make_plan(product)).first;
  if (!entry->second.algorithm) return false;
  multiply(product, entry->second, at);
  return true;
}

std::string lt_key(const LtProduct& p) {
  constexpr const char* kScaling[] = {"",      " tensor-scaled",    " row-scaled",
                                      " runs", " runs and squares", " squares and runs"};
  return fmt::format("lt {}x[{}, {}, {}] a {} b {} c {}{}{}{}{}", p.batch, p.m, p.n, p.k,
                     text_of(p.a), text_of(p.b), text_of(p.c), p.accumulate ? " added" : "",
                     p.bias_alignment ? fmt::format(" bias/{}", p.bias_alignment) : "",
                     kScaling[static_cast<std::size_t>(p.scaling)], p.fast ? " fast" : "");
}

std::vector<LtProduct> lt_products() {
  Cache& known = cache();
  const std::lock_guard lock(known.mutex);
  std::vector<LtProduct> products;
  if (known.version != product_plans_version()) return products;
  for (const auto& [product, plan] : known.plans)
    if (plan.algorithm) products.push_back(product);
  return products;
}

std::vector<LtCandidate> lt_candidates(const LtProduct& product, int most) {
  std::vector<LtCandidate> candidates;
  // Our choice asks for kSuggestions, and the library's answer may depend on how many are asked
  // for.
  const LtPlan plan = lt::describe(product);
  std::vector<cublasLtMatmulAlgo_t> all = lt::suggestions(product, plan, kSuggestions);
  for (const auto& more : lt::suggestions(product, plan, std::max(most, 1))) all.push_back(more);
  for (const cublasLtMatmulAlgo_t& a : all) {
    const std::string text = lt::plan_text(a);
    const bool known = std::any_of(candidates.begin(), candidates.end(),
                                   [&](const LtCandidate& c) { return c.plan == text; });
    if (known || static_cast<int>(candidates.size()) == most) continue;
    candidates.push_back({text, lt::describe_algorithm(a)});
  }
  return candidates;
}

void lt_multiply_by(const LtProduct& product, const LtPointers& at, const std::string& plan) {
  LtPlan chosen = lt::describe(product);
  chosen.algorithm = lt::checked_plan(product, chosen, plan);
  multiply(product, chosen, at);
}

int alignment_of(const void* p, std::int64_t distance) {
  const auto bits = reinterpret_cast<std::uintptr_t>(p) | static_cast<std::uintptr_t>(distance);
  int alignment = 16;
  while (bits % static_cast<std::uintptr_t>(alignment) != 0) alignment /= 2;
  return alignment;
}

}  // namespace nibble::cuda
