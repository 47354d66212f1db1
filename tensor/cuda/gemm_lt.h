// Matrix products through cuBLASLt: row-major, batched, planned once a shape and kept. The plan is
// that of the process's table (tensor/product_plans.h), else the library's first suggestion among
// algorithms with the same bits in every run; nothing is timed here, and no address matters beyond
// its 16-byte alignment. Host code only.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "tensor/cuda/context.h"
#include "tensor/dtype.h"

namespace nibble::cuda {

// Where an operand's elements lie: a matrix whose rows (columns, when `transposed`) are contiguous
// runs, `stride` ≥ their length apart.
struct LtMatrix {
  DType dtype = DType::F32;
  bool transposed = false;
  std::int64_t stride = 0;        // elements
  std::int64_t batch_stride = 0;  // elements; 0: one matrix serves the whole batch
  int alignment = 16;             // of every matrix's first element, bytes: see alignment_of
  auto operator<=>(const LtMatrix&) const = default;
};

// What results of E4M3 and E5M2 operands are multiplied by, in f32 on the device.
enum class LtScaling : std::uint8_t {
  None,
  Tensor,  // one f32 for a, one for b
  Rows,    // f32 [m] for a's rows, [n] for b's columns; since cuBLASLt 12.9 on 9.0
  // f32 for each 128 codes along k of a row of a or a column of b ("runs": [k/128, m] or [k/128,
  // n]), or for each 128 of such rows too ("squares": [m/128 or n/128, k/128], rows 16 bytes · x
  // apart). Sums of 128 codes are promoted to f32; since cuBLASLt 12.9 on 9.0; k a multiple of 128.
  Runs,            // of both
  RunsAndSquares,  // of a, of b
  SquaresAndRuns,
};

// c[i] [m, n] (+)= a[i] [m, k] · b[i] [k, n] (+ bias [n]), i < batch; all extents positive.
// F32 × F32 → F32 in IEEE f32, never TF32; BF16 × BF16 → BF16 or F32 with f32 sums; I8 × I8 → I32,
// which wraps and wants runs along k in both operands (b transposed), k and n multiples of 16 and
// m > 16. E4M3 and E5M2, not E5M2 twice → BF16 or F32, scaled, with bf16 bias: runs along k, k and
// n multiples of 16; sums as fp8_gemm in quant/kernels.h tells, kept in tensor cores when `fast`.
// c is not transposed.
struct LtProduct {
  std::int64_t batch = 1, m = 0, n = 0, k = 0;
  LtMatrix a, b, c;
  bool accumulate = false;
  int bias_alignment = 0;  // 0: no bias
  LtScaling scaling = LtScaling::None;
  bool fast = false;
  auto operator<=>(const LtProduct&) const = default;
};
struct LtPointers {
  const void *a, *b;
  void* c;
  const void* bias = nullptr;                         // of c's dtype; BF16 with fp8 operands
  const void *a_scale = nullptr, *b_scale = nullptr;  // 16-byte aligned where there are many
};

// Enqueues the product. False, with nothing done, when the library has no repeatable algorithm for
// it; the answer depends on the product alone.
[[nodiscard]] bool lt_multiply(const LtProduct& product, const LtPointers& at);

// For `nibble tune`. A plan's text is the library's algorithm, whose words are only good for the
// version and the device that gave them.
std::string lt_key(const LtProduct& product);  // what the process's table knows it by
std::vector<LtProduct> lt_products();          // those of this device since the table last changed
struct LtCandidate {
  std::string plan;
  std::string what;  // "algo 66, tile 20, stages 35, split 1"
};
// Up to `most` of the library's suggestions that lt_multiply could have taken, its choice without a
// table first; none when it has none.
std::vector<LtCandidate> lt_candidates(const LtProduct& product, int most);
// The product by a plan. Throws Error("plans") when that is no algorithm of this library for it.
void lt_multiply_by(const LtProduct& product, const LtPointers& at, const std::string& plan);

// The power of two up to 16 that divides the address and the distance (in bytes).
int alignment_of(const void* p, std::int64_t distance = 0);

}  // namespace nibble::cuda
