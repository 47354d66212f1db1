// cuda::int_gemm: runs the route that the layout has, and the one through cuBLASLt.
#include "quant/cuda/int_gemm.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "quant/cuda/whole_plan.h"
#include "tensor/cuda/gemm_lt.h"
#include "tensor/product_plans.h"

namespace nibble::cuda {
namespace {

// int32 sums in scratch memory (256 MiB); larger results go by slabs of rows.
constexpr std::int64_t kMaxSums = std::int64_t{64} << 20;

IntGemmLayout layout_of(const IntProductKey& x) {
  return {x.m, x.n, x.k, x.block, x.a, x.b, x.zero_points};
}

IntProductKey key_of(const IntProduct& p) {
  return {.m = p.m(),
          .n = p.n(),
          .k = p.k,
          .block = p.block,
          .a = p.a.codes.dtype(),
          .b = p.b.codes.dtype(),
          .c = p.c.dtype(),
          .zero_points = p.a.zeros.defined() || p.b.zeros.defined(),
          .accumulate = p.accumulate,
          .bias = p.bias.defined(),
          .a_columns = p.a.scales.size(1),
          .b_columns = p.b.scales.size(1),
          .a_tile_rows = std::min(p.a.tile_rows, p.m()),
          .b_tile_rows = std::min(p.b.tile_rows, p.n())};
}

void check_extents(const IntProduct& p) {
  NIBBLE_CHECK(std::max({p.m(), p.n(), p.k}) < INT32_MAX, "int_gemm",
               "got [{}, {}] x [{}, {}], expected extents below 2^31", p.m(), p.k, p.k, p.n());
}

bool is_plain(const IntProductKey& x) {
  return !x.zero_points && x.a != DType::U8 && x.b != DType::U8;
}

IntPlan make_plan(const IntProductKey& key) {
  const std::vector<IntPlan> candidates = int_candidates(key);
  const std::string text = planned(int_key(key));
  if (text.empty()) return candidates.front();
  const auto at = std::find_if(candidates.begin(), candidates.end(),
                               [&](const IntPlan& plan) { return to_text(plan) == text; });
  NIBBLE_CHECK(at != candidates.end(), "plans",
               "{}: got '{}', which does not serve it; measure again with nibble tune",
               int_key(key), text);
  return *at;
}

struct Cache {
  std::mutex mutex;
  std::map<IntProductKey, IntPlan> plans;
  std::uint64_t version = 0;  // of the process's table
};
Cache& cache() {
  static auto* c = new Cache;
  return *c;
}

IntPlan plan_of(const IntProductKey& key) {
  Cache& known = cache();
  const std::lock_guard lock(known.mutex);
  if (const std::uint64_t now = product_plans_version(); known.version != now) {
    known.plans.clear();
    known.version = now;
  }
  const auto found = known.plans.find(key);
  if (found != known.plans.end()) return found->second;
  return known.plans.emplace(key, make_plan(key)).first->second;
}

}  // namespace

void int_gemm_library(const IntProduct& p) {
  const Tensor a = padded_codes(p.a, p.k), b = padded_codes(p.b, p.k);
  const std::int64_t m = p.m(), n = p.n(), k = a.size(1);
  // Equal slabs, because the library wants more than a few rows in each.
  const std::int64_t slabs = (m * n + kMaxSums - 1) / kMaxSums;
  const Tensor scratch = Tensor::empty({(m + slabs - 1) / slabs, n}, DType::I32, p.c.device());
  LtProduct product;
  product.n = n;
  product.k = k;
  product.a = {DType::I8, false, k, 0, 16};
  product.b = {DType::I8, true, k, 0, 16};
  product.c = {DType::I32, false, n, 0, 16};
  for (std::int64_t slab = 0; slab < slabs; ++slab) {
    const std::int64_t row = m * slab / slabs, end = m * (slab + 1) / slabs;
    Tensor sums = scratch.slice(0, 0, end - row);
    product.m = end - row;
    const bool served =
        lt_multiply(product, {a.data<std::int8_t>() + row * k, b.raw(), sums.raw(), nullptr});
    NIBBLE_CHECK(served, "int_gemm",
                 "cuBLASLt {} has no int8 algorithm for [{}, {}] x [{}, {}], which it documents",
                 cublasLtGetVersion(), product.m, k, k, n);
    scale_sums(p, sums, row);
  }
}

void int_gemm(Tensor& c, const CodeOperand& a, const CodeOperand& b, std::int64_t k,
              std::int64_t block, const Tensor& bias, bool accumulate) {
  const IntProduct p{c, a, b, k, std::max<std::int64_t>(block, 1), bias, accumulate};
  if (p.m() == 0 || p.n() == 0) return;
  check_extents(p);
  int_gemm_by(p, plan_of(key_of(p)));
}

void int_gemm_gelu(Tensor& c, Tensor& before, const CodeOperand& a, const CodeOperand& b,
                   std::int64_t k, std::int64_t block, const Tensor& bias) {
  const IntProduct p{c, a, b, k, std::max<std::int64_t>(block, 1), bias, false};
  if (p.m() == 0 || p.n() == 0) return;
  check_extents(p);
  IntProductKey key = key_of(p);
  key.gelu = true;
  int_gemm_gelu_by(p, before, plan_of(key));
}

void int_gemm_gelu_by(const IntProduct& p, const Tensor& before, const IntPlan& plan) {
  if (plan.fused) return int_gemm_gelu_whole(p, before);
  Tensor c = p.c, y = before ? before : Tensor::empty(c.shape(), c.dtype(), c.device());
  int_gemm(y, p.a, p.b, p.k, p.block, p.bias, false);
  gelu_tanh(c, y);
}

void int_gemm_wgmma(const IntProduct& p) {
  if (p.block < p.k) return int_gemm_grouped(p);
  const bool is_signed = p.a.codes.dtype() != DType::U8 && p.b.codes.dtype() != DType::U8;
  return p.a.zeros || p.b.zeros || !is_signed ? int_gemm_zeros(p) : int_gemm_whole(p);
}

void int_gemm_by(const IntProduct& product, const IntPlan& plan) {
  IntProduct p = product;
  p.plan = plan;
  switch (plan.route) {
    case IntGemmRoute::Library: return int_gemm_library(p);
    case IntGemmRoute::Resident: return int_gemm_resident(p);
    case IntGemmRoute::Wgmma: return int_gemm_wgmma(p);
    case IntGemmRoute::Tiles: return int_gemm_tiles(p);
    case IntGemmRoute::General: return int_gemm_general(p);
  }
}

std::string to_text(const IntPlan& plan) {
  switch (plan.route) {
    case IntGemmRoute::Library: return "library";
    case IntGemmRoute::General: return "general";
    case IntGemmRoute::Resident: return "resident";
    case IntGemmRoute::Wgmma:
      if (plan.fused) return "wgmma fused";
      return plan.columns > 0 ? fmt::format("wgmma columns={} rounds={}", plan.columns, plan.rounds)
                              : "wgmma";
    case IntGemmRoute::Tiles: break;
  }
  if (plan.tile == IntPlan::Tile::Chosen) return "tiles";
  return plan.tile == IntPlan::Tile::Large ? "tiles large" : "tiles small";
}

std::string int_key(const IntProductKey& x) {
  const auto side = [](DType dtype, std::int64_t tile_rows, std::int64_t columns) {
    return fmt::format("{}/{}{}", to_string(dtype), tile_rows, columns > 1 ? "/blocks" : "");
  };
  return fmt::format("int [{}, {}, {}] by {} a {} b {} c {}{}{}{}{}", x.m, x.n, x.k,
                     std::min(x.block, x.k), side(x.a, x.a_tile_rows, x.a_columns),
                     side(x.b, x.b_tile_rows, x.b_columns), to_string(x.c),
                     x.zero_points ? " zeros" : "", x.accumulate ? " added" : "",
                     x.bias ? " bias" : "", x.gelu ? " gelu" : "");
}

std::vector<IntPlan> int_candidates(const IntProductKey& x) {
  using Tile = IntPlan::Tile;
  const IntGemmRoute route = int_gemm_route(layout_of(x));
  std::vector<IntPlan> plans{{.route = route}};
  if (route == IntGemmRoute::General) return plans;
  using enum IntGemmRoute;
  const bool whole = x.block >= x.k, plain = is_plain(x), resident = route == Resident;
  const bool on_wgmma = whole && (resident || route == Wgmma);
  if (x.gelu) {  // the product before the map has a key of its own
    if (on_wgmma && plain) plans.push_back({.route = Wgmma, .fused = true});
    return plans;
  }
  if (resident) plans.push_back({.route = Wgmma});
  if (on_wgmma)
    for (const std::uint32_t columns : kWholeColumns)
      for (const std::uint32_t rounds : kWholeRounds)
        if ((rounds == 0 || x.k >= kWholeMinSplit) && (plain || columns == 256))
          plans.push_back({.route = Wgmma, .columns = columns, .rounds = rounds});
  if (on_wgmma && plain && !resident && x.k <= kMaxResidentDepth)
    plans.push_back({.route = Resident});
  if (!plain) return plans;
  for (const Tile tile : {Tile::Large, Tile::Small})
    plans.push_back({.route = Tiles, .tile = tile});
  // Its conditions, and sums that stay within 31 bits.
  if (whole && x.m > 16 && x.n % 16 == 0) plans.push_back({.route = Library});
  return plans;
}

std::vector<IntProductKey> int_products() {
  Cache& known = cache();
  const std::lock_guard lock(known.mutex);
  std::vector<IntProductKey> keys;
  if (known.version != product_plans_version()) return keys;
  for (const auto& [key, plan] : known.plans) keys.push_back(key);
  return keys;
}

}  // namespace nibble::cuda
