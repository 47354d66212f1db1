// Measuring the plans of products: what `nibble tune` does with the ones that a step has formed.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace nibble::cuda {

struct MeasuredProduct {
  std::string key, plan;  // as tensor/product_plans.h takes them
  std::string what;       // the plan in words
  int candidates = 0;     // that were measured and agreed with the first
  double us = 0;          // of the plan, median
  double untuned_us = 0;  // of what is taken without a table
};
struct MeasureOptions {
  int repeats = 15;     // runs a candidate
  int candidates = 16;  // asked of the library for a product
  std::function<void(const MeasuredProduct&)> each = {};
};
// Every product that the current device planned since the process's table last changed and that has
// more than one plan. A candidate counts when its results agree with the untuned plan's (bit for
// bit for integers, noise under 1e-4 of the signal's power else), and is taken when it is over 2 %
// faster. Random data, cold L2.
std::vector<MeasuredProduct> measure_products(const MeasureOptions& options);

}  // namespace nibble::cuda
