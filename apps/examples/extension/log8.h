// A moment format: 8 bits on a logarithmic scale, eight steps an octave below the row's largest
// value; what is under 2^-15.75 of it becomes 0.
#pragma once

#include <numbers>

#include "optim/codec.h"
#include "tensor/ops.h"

class Log8 : public nibble::StateCodec {
 public:
  std::string name() const override { return "log8"; }

  nibble::EncodedState make(std::int64_t rows, std::int64_t cols,
                            nibble::Device device) const override {
    using namespace nibble;
    return {{{"codes", Tensor::zeros({rows, cols}, DType::I8, device)},
             {"largest", Tensor::full({rows, 1}, kSmallest, DType::F32, device)}}};
  }
  void decode(nibble::Tensor& x, const nibble::EncodedState& state) const override {
    using namespace nibble;
    const Tensor code = state["codes"].to(DType::F32);
    const Tensor share = ops::exp(ops::affine(ops::abs(code), kOctave, -127 * kOctave));
    x.copy_from(ops::mul(ops::mul(ops::sign(code), share), state["largest"]));
  }
  void encode(nibble::EncodedState& state, const nibble::Tensor& x,
              const nibble::RngKey&) const override {
    using namespace nibble;
    const Tensor magnitude = ops::abs(x);
    const Tensor largest = ops::clamp(ops::max(magnitude, {1}, true), kSmallest, kLargest);
    const Tensor position = ops::affine(ops::log(ops::div(magnitude, largest)), 1 / kOctave, 127.5);
    const Tensor code = ops::mul(ops::sign(x), ops::clamp(position, 0, 127));
    state["codes"].copy_from(code);  // a conversion to integers cuts the fraction off
    state["largest"].copy_from(largest);
  }

 private:
  static constexpr double kOctave = std::numbers::ln2 / 8;
  static constexpr double kSmallest = 1e-30, kLargest = 1e30;
};
