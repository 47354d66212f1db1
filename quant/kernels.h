// Kernel pairs of quant/. As in tensor/kernels.h: callers have checked and allocated everything,
// tensors are contiguous unless a comment says otherwise. All of them are bit-exact between
// devices: the scalar code is shared (quant/codec.h) and sums have a fixed order.
#pragma once

#include "quant/one_pass.h"
#include "quant/qtensor.h"
#include "tensor/kernels.h"
#include "tensor/step_state.h"

namespace nibble {

// Sums over a tile (absmean, mse) are f64: each row from left to right, then the rows of each
// segment of this many rows in order, then the segments in order.
inline constexpr std::int64_t kRowSegment = 64;

// x [rows, cols]: F64 (rounded to f32), F32 or BF16. `ranges` F32 [spec.scale_shape(rows, cols)]:
// the calibrated range of each tile before the floor, not finite where x is not; `minima` the same
// shape, written for zero points only (undefined otherwise).
NIBBLE_KERNEL(quant_ranges, Tensor& ranges, Tensor& minima, const Tensor& x, const QuantSpec& spec)
// Ranges to stored scales: floor, step, rounding to spec.scale, zero points, global scale.
NIBBLE_KERNEL(quant_scales, Tensor& scales, Tensor& zeros, Tensor& global, const Tensor& ranges,
              const Tensor& minima, const QuantSpec& spec)
// Stored scales to f32 steps; `global` for TwoLevel only.
NIBBLE_KERNEL(quant_steps, Tensor& steps, const Tensor& scales, const Tensor& global,
              const QuantSpec& spec)

// codes [rows, cols], one a byte. Noise of element i (its index in x) is draw i of the key.
NIBBLE_KERNEL(quant_encode, Tensor& codes, const Tensor& x, const Tensor& steps,
              const Tensor& zeros, const QuantSpec& spec, const RngKey& key)
// y [rows, cols] F64, F32 or BF16 = (decode(codes) + zeros) · steps; codes one a byte.
NIBBLE_KERNEL(quant_decode, Tensor& y, const Tensor& codes, const Tensor& steps,
              const Tensor& zeros, const QuantSpec& spec)
// encode and decode in one pass; y and x [rows, cols] of one dtype (they may be the same tensor).
NIBBLE_KERNEL(quant_roundtrip, Tensor& y, const Tensor& x, const Tensor& steps, const Tensor& zeros,
              const QuantSpec& spec, const RngKey& key)

// The above in one pass where quant/one_pass.h allows it, all bits the same. Scales and codes of x
// [rows, cols]; the values of its codes; scales and codes of xᵀ [cols, rows], for which `spec` is
// stated, with the noise of x's own elements; scales and codes of x in square tiles.
NIBBLE_KERNEL(quant_row_runs, Tensor& codes, Tensor& scales, const Tensor& x, const QuantSpec& spec,
              const RngKey& key)
NIBBLE_KERNEL(quant_round_row_runs, Tensor& y, const Tensor& x, const QuantSpec& spec,
              const RngKey& key)
NIBBLE_KERNEL(quant_column_runs, Tensor& codes, Tensor& scales, const Tensor& x,
              const QuantSpec& spec, const RngKey& key)
NIBBLE_KERNEL(quant_square_tiles, Tensor& codes, Tensor& scales, const Tensor& x,
              const QuantSpec& spec, const RngKey& key)

// Delayed scaling (quant/scale_history.h); the spec has one scale for the tensor. A range before it
// is calibrated is the largest magnitude, compared by its bits, so that a NaN stays.
// range F32 [1, 1]: what quant_scales takes, from the largest of `history` F32 [steps]; where all
// of them are 0, the range that makes the step 1.
NIBBLE_KERNEL(quant_delayed_range, Tensor& range, const Tensor& history, const QuantSpec& spec)
// codes as quant_encode's, and `largest` F32 [1] grows to x's largest magnitude, in one pass.
NIBBLE_KERNEL(quant_encode_tracked, Tensor& codes, Tensor& largest, const Tensor& x,
              const Tensor& steps, const QuantSpec& spec, const RngKey& key)
// now F32 [1] grows to `largest`; scales F32 [1, 1] becomes NaN where that is not finite: codes of
// a past range would hide it.
NIBBLE_KERNEL(quant_settle_range, Tensor& now, Tensor& scales, const Tensor& largest)
// history F32 [tensors, steps]: column `step` mod steps takes `now` F32 [tensors], unless the step
// is bad; then now = 0.
NIBBLE_KERNEL(quant_advance_ranges, Tensor& history, Tensor& now, const StepScalars* step)
// Both encodings of one matrix, where has_pair allows it: those of quant_row_runs and
// quant_column_runs (undefined column_codes and column_scales: not wanted), with one key; the
// matrix itself into `value` [rows, cols] of x's dtype (undefined: not kept; for Plain it must be);
// its column_sum into column_sums F32 [cols] (undefined: not wanted), overwritten.
NIBBLE_KERNEL(quant_pair, Tensor& row_codes, Tensor& row_scales, Tensor& column_codes,
              Tensor& column_scales, Tensor& value, Tensor& column_sums, const PairSource& source,
              const QuantSpec& by_row, const QuantSpec& by_column, const RngKey& key)

// The encodings that quant_pair makes of dlogits, as cross_entropy_gradient forms and rounds them,
// and its losses; where has_dlogits_pair allows it. logits stay. Unless with_target, each row's
// target counts as 0.
NIBBLE_KERNEL(quant_dlogits, Tensor& row_codes, Tensor& row_scales, Tensor& column_codes,
              Tensor& column_scales, Tensor& losses, const Tensor& logits, const Tensor& targets,
              const Tensor& scale, bool with_target, const QuantSpec& by_row,
              const QuantSpec& by_column, const RngKey& key)

// Rows with weights: y[i, :] += weight[i] · x̂[index[i], :], and its transpose y[index[i], :] +=
// weight[i] · x̂[i, :] in ascending i, a row's sum rounded once. Index −1 adds nothing; others
// outside the table are the caller's fault: what their neighbours get is undefined. x̂: x, or codes
// I8 times `steps` F32, one a row (else undefined); weight · step is rounded first. weight F32 [n]
// (on the CPU also F64).
NIBBLE_KERNEL(quant_gather_rows, Tensor& y, const Tensor& index /*I32*/, const Tensor& weight,
              const Tensor& x, const Tensor& steps)
NIBBLE_KERNEL(quant_scatter_rows, Tensor& y, const Tensor& index /*I32*/, const Tensor& weight,
              const Tensor& x, const Tensor& steps)

// y [cols, rows] = xᵀ, elements of one byte.
NIBBLE_KERNEL(quant_transpose, Tensor& y, const Tensor& x)
// U4x2 [rows, cols + cols % 2] from and to one code a byte; the even column is the low nibble, the
// padding nibble 0. unpack extends the sign when `codes` is I8.
NIBBLE_KERNEL(quant_pack, Tensor& packed, const Tensor& codes)
NIBBLE_KERNEL(quant_unpack, Tensor& codes, const Tensor& packed)

// One K-major operand of a product of codes, as its QTensor holds it. Scales (zero points: whole
// numbers) are F32 [ceil(rows / tile_rows), 1 or the contraction blocks]. int_gemm: rows of 8-bit
// codes, and of scales without zero points, may be strided.
struct CodeOperand {
  Tensor codes;  // [rows, k] I8, U8, E4M3 or E5M2, or U4x2 [rows, k + k % 2]
  Tensor scales, zeros;
  std::int64_t tile_rows = 1;
  bool is_signed = true;  // of U4x2 codes
};
// c [M, N] F32 or BF16, rows may be strided: c (+)= a·bᵀ (+ bias F32 or BF16 [N], if any). Each
// contraction block of `block` codes is summed exactly in integers; zero points za and zb add
// za·Σb, zb·Σa and za·zb·n in that order in f64 (exact below 2^53). Then, in f32: with one block
// (float(sum)·sa)·sb; with several f = fma(float(sum), sa·sb, f) over those of a segment
// (quant/segments.h) in ascending order, then the sum of the segments in ascending order; then
// + bias, rounding to c's dtype when not accumulating, else c + that.
NIBBLE_KERNEL(int_gemm, Tensor& c, const CodeOperand& a, const CodeOperand& b, std::int64_t k,
              std::int64_t block, const Tensor& bias, bool accumulate)
// c = tanh-GELU of what int_gemm writes in c's dtype: `before`, which is a result too if defined.
// Both are contiguous.
NIBBLE_KERNEL(int_gemm_gelu, Tensor& c, Tensor& before, const CodeOperand& a, const CodeOperand& b,
              std::int64_t k, std::int64_t block, const Tensor& bias)
// int_gemm of e4m3 and e5m2 codes, and not exact: sums are f32, one product for each contraction
// block, then rescale_product's steps in ascending order (no segments), then + bias in f32 (F32 or
// BF16 [N], may be undefined), rounding to c's dtype or c + that. The CPU sums decoded codes in f32
// (tensor/kernels.h, matmul). A GPU's tensor cores (quant/fp8_route.h) align the 32 products of an
// instruction and the sum so far to the largest exponent and keep 14 bits of each (DeepSeek-V3,
// arXiv 2412.19437, section 3.3.2), promoted to f32 at least every 128 codes unless `accumulation`
// is Fast: off by at most 2^-13 · 33 · 4 of the sum of |products|, by 2^-13 · 33 · k / 32 when
// Fast. Sums that fit 14 bits are exact. Scales may be applied as sum · (sa · sb).
NIBBLE_KERNEL(fp8_gemm, Tensor& c, const CodeOperand& a, const CodeOperand& b, std::int64_t block,
              const Tensor& bias, bool accumulate, Accumulation accumulation)
// The same rescaling for a product that is formed block by block in floats: f [M, N] F32 becomes
// (part·sa)·sb when `blocks` is 1, else fma(part, sa·sb, f) for contraction block `index` (f is
// taken as 0 at index 0). The operands' codes are not read.
NIBBLE_KERNEL(rescale_product, Tensor& f, const Tensor& part /*F32 [M, N]*/, const CodeOperand& a,
              const CodeOperand& b, std::int64_t index, std::int64_t blocks)

}  // namespace nibble
