// Coder: codes of one format for a run of values that are already divided by their step.
#pragma once

#include <array>
#include <cstdint>

#include "quant/codec.h"
#include "quant/spec.h"

namespace nibble::cpu {

class Coder {
 public:
  explicit Coder(const QuantSpec& spec);

  bool stochastic() const { return stochastic_; }
  // y[n] to codes, which may not overlap y; `draws` holds one 16-bit draw an element when
  // stochastic, else it is unused.
  void encode(const float* y, std::int64_t n, const std::uint16_t* draws,
              std::uint8_t* codes) const;
  // y[n] to the values of its codes; `values` may be `y`.
  void round(const float* y, std::int64_t n, const std::uint16_t* draws, float* values) const;
  void decode(const std::uint8_t* codes, std::int64_t n, float* values) const;

 private:
  Format format_;
  bool stochastic_;
  float low_ = 0, high_ = 0;                        // integers
  codec::SmallFloat small_{2, 1};                   // floats
  std::array<float, 256> value_of_{}, bound_of_{};  // bounds of a code book, then infinity
  int moves_ = 0;
};

}  // namespace nibble::cpu
