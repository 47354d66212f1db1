// Two models on one batch, layer by layer.
#pragma once

#include <string>
#include <vector>

#include "apps/compare/capture.h"
#include "apps/compare/layer_error.h"

namespace nibble::compare {

struct Row {
  Kind kind;
  std::string name;
  Shape shape;
  LayerError error;
  bool diverges;
};

struct LayerReport {
  double loss_a = 0, loss_b = 0, threshold_db = 0;
  std::vector<Row> forward;   // outputs, in the order of the forward pass
  std::vector<Row> backward;  // gradients of outputs and parameters, in the order of the backward
  LayerError gradient;        // of all parameters as one vector, whole if nothing is lonely
  std::vector<std::string> only_a, only_b;  // names without a partner

  // The first that diverges, or null.
  static const Row* first(const std::vector<Row>& rows);
};

// Runs `b` on the pass of `a` and measures every tensor as it comes, so that only one side's are
// kept. `seen` (may be empty) is told b's tensors. Throws Error("compare") where shapes differ.
LayerReport compare_with(const Captured& a, LanguageModel& b, const Pass& pass, double threshold_db,
                         const Sink& seen);

// Throws Error("compare") naming the first parameter that both models have in different shapes.
void check_same_shapes(Module& a, Module& b);

}  // namespace nibble::compare
