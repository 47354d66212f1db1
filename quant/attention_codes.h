// Attention whose output comes with both encodings that a linear layer behind it reads.
#pragma once

#include "quant/spec.h"
#include "tensor/attention_route.h"

namespace nibble {

// Whether quant_attention serves: bf16, heads of 64, signed integers rounded to nearest by
// reciprocal steps, one scale for 128 columns of a row of the output [B·T, H·D] and for 128 rows of
// a column
// (`by_column` is stated for the transpose), T and H·D multiples of 128, where the library's own
// forward serves in every build. A scale over a whole row is known only when all heads are: reading
// the output again is faster (tests/bench/results/2026-11-29-attention.md). The same on every
// device.
bool has_attention_codes(const AttentionProblem& problem, const QuantSpec& by_row,
                         const QuantSpec& by_column);

// attention (tensor/kernels.h) of such a case, and quant_pair's encodings of its output, which is
// written too; undefined column_codes and column_scales: not wanted.
NIBBLE_KERNEL(quant_attention, Tensor& out, Tensor& lse, Tensor& row_codes, Tensor& row_scales,
              Tensor& column_codes, Tensor& column_scales, const Tensor& q, const Tensor& k,
              const Tensor& v, const AttentionOptions& options, const QuantSpec& by_row,
              const QuantSpec& by_column)

}  // namespace nibble
