// How far one tensor is from another.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace nibble::compare {

// Pairs of which either is not finite are counted and left out of the rest. Sums are doubles in the
// order of the elements: the same bits on every machine.
struct LayerError {
  std::int64_t count = 0;
  std::int64_t not_finite_a = 0, not_finite_b = 0;
  double sqnr_db = 0;  // 10·log10(Σa² / Σ(a − b)²); +∞ when equal, −∞ when a alone is zero
  double cosine = 1;         // Σab / √(Σa²·Σb²); 1 when both are zero, 0 when one is
  double max_abs_error = 0;  // max |a − b|
  // Σa², Σb², Σab, Σ(a − b)²
  double signal = 0, other = 0, product = 0, noise = 0;

  // Of both tensors as one vector.
  void add(const LayerError& more);

  bool finite() const { return not_finite_a == 0 && not_finite_b == 0; }
  // Not finite on either side, or more noise than the threshold allows.
  bool diverges(double threshold_db) const { return !finite() || sqnr_db < threshold_db; }
};

// `a` is the reference. Float dtypes, also different ones, on the CPU; throws Error("compare") when
// shapes differ.
LayerError error_of(const Tensor& a, const Tensor& b);

}  // namespace nibble::compare
