// What the spike measured, as markdown.
#pragma once

#include <string>
#include <vector>

#include "operand.h"

namespace nibble::spike {

struct Timing {
  Family family{};
  std::vector<OpRecord> ops;
  double whole_ms = 0;  // median of a whole pass, no events inside
  std::string clocks;   // nvidia-smi: SM clock, power, temperature
  double sum(const std::string& kind) const;
  double bytes(const std::string& kind) const;
  double flops(const std::string& kind) const;
  double sum_named(const std::string& part) const;  // operations whose name starts so
};

/// Time and share of the copy bandwidth of each class and family.
void print_classes(const std::vector<Timing>& timings, double copy_gbs);
/// Every operation of one family, in order.
void print_kernels(const Timing& timing, double copy_gbs);
/// What is left when scaling moves into the product's epilogue; `cudnn_ms` replaces the attention.
void print_predictions(const std::vector<Timing>& timings, double cudnn_ms, double copy_gbs);

}  // namespace nibble::spike
