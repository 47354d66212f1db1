// Matrix products beside the dense one: times, rates, and whether the results are right.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tensor/device.h"

namespace nibble::bench {

// How the operands lie: A[m, k]·B[n, k]ᵀ, A[m, k]·B[k, n] and A[k, m]ᵀ·B[k, n].
enum class Layout : std::uint8_t { NT, NN, TN };

struct GemmShape {
  std::int64_t m = 0, n = 0, k = 0;
  Layout layout = Layout::NT;
  std::string text() const;  // "32768, 768, 768 nt"
};

// "gpt2" (32,768 tokens, and the wgrad shapes), "gpt2-xl" (8,192 tokens), "lm_head", "square",
// "layouts" (1024, 2048, 4096 in all three), "small"; or "M,N,K" with ":nn" or ":tn". Throws
// Error("bench").
std::vector<GemmShape> parse_shapes(const std::string& text);
std::vector<std::string> gemm_sets();
std::vector<std::string> gemm_forms();  // "int8_row", "int8_group128", …

struct GemmCell {
  std::string form;    // "dense" first
  std::string kernel;  // what serves it (product_route)
  double seconds = 0;  // median; 0: not served, or wrong
  double rate = 0;     // 2·m·n·k a second
  double speedup = 0;  // the dense product's time over this one's
  double error = 0;    // the largest, in units of what is allowed
  std::string fault;   // why there is no time; empty: there is one
  bool wrong() const { return error > 1; }
};
struct GemmRow {
  GemmShape shape;
  std::vector<GemmCell> cells;
};

struct GemmOptions {
  Device device = kCpu;
  std::vector<GemmShape> shapes;
  std::vector<std::string> forms;  // of gemm_forms(); throws Error("bench") for others
  int repeats = 15;
  double budget = 5;                         // seconds that one cell's repeats may take
  std::function<void(const GemmRow&)> each;  // called as rows are finished; may be empty
};
std::vector<GemmRow> bench_gemm(const GemmOptions& options);
// Geometric means of the speedups of each form over the rows that have one; 0 where none has.
std::vector<double> mean_speedups(const std::vector<GemmRow>& rows);

}  // namespace nibble::bench
