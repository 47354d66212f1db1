// Telemetry: how well each operand was encoded, by module and role (design.md, amendment 28).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "quant/qtensor.h"

namespace nibble {

struct QuantStats {
  std::int64_t count = 0;  // elements seen
  double absmax = 0;
  double clipped = 0;  // share of elements beyond the largest value of their tile
  double flushed = 0;  // share of non-zero elements that became zero
  double sqnr_db = 0;  // 10·log10(Σx² / Σ(x − x̂)²); +inf when exact
};

// Filled while it is ForwardContext::telemetry. Not for captured graphs: it synchronises.
class Telemetry {
 public:
  // `x` [rows, cols] and what it decodes to; calls for the same (module, role) are merged.
  // `scales`: the F32 ones that were used, where they may not be those of x's own range.
  void record(const std::string& module, const std::string& role, const Tensor& x,
              const Tensor& decoded, const QuantSpec& spec, const Tensor& scales = {});
  std::map<std::pair<std::string, std::string>, QuantStats> stats() const;
  bool empty() const { return sums_.empty(); }
  void clear() { sums_.clear(); }

 private:
  struct Sums {
    std::int64_t count = 0, nonzero = 0, clipped = 0, flushed = 0;
    double absmax = 0, signal = 0, noise = 0;
  };
  std::map<std::pair<std::string, std::string>, Sums> sums_;
};

}  // namespace nibble
