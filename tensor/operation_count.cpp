#include "tensor/operation_count.h"

#include <atomic>

namespace nibble {
namespace {

// Whole numbers: sums of doubles would lose the small ones of a long run.
std::array<std::atomic<std::uint64_t>, kOperationKinds> g_operations{};

}  // namespace

OperationCount operation_count() {
  OperationCount count;
  for (std::size_t i = 0; i < kOperationKinds; ++i)
    count.of[i] = static_cast<double>(g_operations[i].load(std::memory_order_relaxed));
  return count;
}

void count_operations(OperationKind kind, double operations) {
  g_operations[static_cast<std::size_t>(kind)].fetch_add(static_cast<std::uint64_t>(operations),
                                                         std::memory_order_relaxed);
}

void count_product(OperationKind kind, std::int64_t m, std::int64_t n, std::int64_t k) {
  count_operations(kind,
                   2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k));
}

void count_attention(int products, const Shape& q, std::int64_t keys, bool causal) {
  const auto queries = static_cast<double>(q[1]), all = static_cast<double>(keys);
  // The last query sees every key.
  const double pairs =
      causal ? queries * (all - queries) + queries * (queries + 1) / 2 : queries * all;
  count_operations(
      OperationKind::Attention,
      2.0 * products * static_cast<double>(q[0] * q[2] * q[3]) * (pairs > 0 ? pairs : 0));
}

}  // namespace nibble
