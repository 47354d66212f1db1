// Wanted: what the reader of a tensor tells its producer before it runs, so that the pass that
// makes the tensor encodes it as well (design.md, amendment 6).
#pragma once

#include <optional>

#include "quant/one_pass.h"
#include "quant/qtensor.h"

namespace nibble {

class Parameter;
struct AttentionOptions;

// The encodings of a matrix [M, C] that a linear layer's products read.
struct Wanted {
  QuantSpec by_row;           // of the matrix
  QuantSpec by_column;        // of its transpose [C, M], for which it is stated
  RngKey key;                 // the reader's: the codes are those that it would make itself
  bool transpose = true;      // whether `by_column` is read; evaluation does not
  Parameter* bias = nullptr;  // whose gradient is the sums over the rows, which are read then
};

// Writes what is wanted of the matrix that `source` stands for, which is not kept itself, in one
// pass (two for a norm and its transpose); `shape`: the tensor's, whose rows the matrix has.
// Allocates what else the source writes; sums go straight into a bias that has no gradient yet, and
// are none of the Encoded's then. Nothing happens where no kernel serves.
std::optional<Encoded> encode_pair(PairSource& source, const Shape& shape, const Wanted& wanted);
// The same of an attention's output, which is written too, with its log-sum-exp (both are made
// here). q [B, T, H, D]; the Encoded is of [B, T, H·D].
std::optional<Encoded> encode_attention(Tensor& out, Tensor& lse, const Tensor& q, const Tensor& k,
                                        const Tensor& v, const AttentionOptions& options,
                                        const Wanted& wanted);

}  // namespace nibble
