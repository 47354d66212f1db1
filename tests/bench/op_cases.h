// The rows of the op table at benchmark shapes.
#pragma once

#include "tests/op_table.h"

namespace nibble::testing {

// Extents that every case is cut from; cols = heads · head_dim.
struct Sizes {
  const char* name;
  std::int64_t rows;                          // of matrices [rows, cols]
  std::int64_t batch, time, heads, head_dim;  // of activations [batch, time, cols]
  std::int64_t vocab, tokens;  // of a classifier [vocab, cols], logits [tokens, vocab]
  std::int64_t cols() const { return heads * head_dim; }
};
// "small" (tests), "cpu" and "cuda" (GPT-2 small's width); throws Error("op_bench").
const Sizes& find_sizes(std::string_view name);

struct BenchCase {
  std::vector<ArgSpec> inputs, parameters;
  std::function<Var(const OpArgs&)> fn;  // its constants lie on the case's device already
  double flops = 0;                      // of the forward; a multiply-add counts 2
  double backward_flops = 0;             // of the backward alone
};
// Throws Error("op_bench") for a row that has no case: a new row needs one.
BenchCase bench_case(const OpRow& row, const Sizes& sizes, Device device);

}  // namespace nibble::testing
