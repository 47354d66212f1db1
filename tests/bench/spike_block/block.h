// One GPT-2 block, forward and backward, hand-wired; the family of its linears' operands is a
// choice.
#pragma once

#include <array>

#include "attention.h"
#include "operand.h"

namespace nibble::spike {

struct BlockShape {
  int batch = 0, tokens = 0, channels = 0;
  int rows() const { return batch * tokens; }
  int heads() const { return channels / kHeadDim; }
};

enum Layer { kQkv, kProj, kFc1, kFc2, kLayers };
constexpr std::array<const char*, kLayers> kLayerNames{"qkv", "proj", "fc1", "fc2"};
/// Output and input width of layer `l` in units of C.
constexpr std::array<int, kLayers> kOutUnits{3, 1, 4, 1}, kInUnits{1, 1, 1, 4};

/// Inputs and parameters, equal for every variant. dy is the gradient of the block's output.
struct BlockData {
  BlockData(BlockShape shape, bool outliers);
  BlockShape shape;
  Buffer<bf16> x, dy;
  std::array<Buffer<bf16>, kLayers> weight, bias;
  std::array<Buffer<bf16>, 2> gamma, beta;
};

/// How a linear's products are computed: as the family says, or (for errors) in float64 from the
/// dequantized operands.
enum class Products { kFast, kDequantized };

class Block {
 public:
  Block(GemmLibrary& gemm, const BlockData& data, Family family, Products products);
  /// Encodes the weights (once an optimizer step), runs forward, then backward.
  void run(Profiler& prof);

  /// Results after run(): y, dx and the gradients of all parameters.
  const bf16* y() const { return y_.get(); }
  const bf16* dx() const { return dx_.dense.get(); }
  const bf16* dweight(Layer l) const { return dweight_[l].get(); }
  const float* dbias(Layer l) const;
  const float* dgamma(int i) const { return ln_sums_[i].get(); }
  const float* dbeta(int i) const { return ln_sums_[i].get() + data_.shape.channels; }
  /// int8 products that differ from a 64-bit integer loop, of `samples` for each of the 12
  /// products.
  int count_wrong(int samples);

 private:
  void forward(Profiler& prof);
  void backward(Profiler& prof);
  void linear(Profiler& prof, Layer l, const Operand& x, const bf16* add, bf16* y);
  void linear_backward(Profiler& prof, Layer l, const Operand& dy, const Operand& x, bf16* dx);
  struct Product;
  void multiply(Profiler& prof, const Product& p);
  void multiply_dequantized(const Product& p);
  void multiply_integer(Profiler& prof, const Product& p);

  GemmLibrary& gemm_;
  const BlockData& data_;
  Family family_;
  Products products_;
  int m_, c_;
  AbsmaxArena arena_, given_;  // given_: of dy, which the block above produced
  Encoder encoder_;
  Attention<bf16> attention_;
  std::array<Operand, kLayers> weight_;
  Operand h1_, att_, h2_, g_, dy_, df1_, dr1_, dqkv_, dx_;
  Buffer<bf16> qkv_, r1_, f1_, y_, dg_, dh_, datt_;
  Buffer<float2> stats1_, stats2_;
  std::array<Buffer<bf16>, kLayers> dweight_;
  std::array<Buffer<float>, 2> ln_sums_;  // dgamma, dbeta, column sums of the result
  Buffer<float> dbias_qkv_, dbias_fc1_, dbias_fc2_;
  Buffer<std::int32_t> acc_;
  Buffer<float> stand_in_row_, stand_in_col_;
  Buffer<double> wide_a_, wide_b_, wide_d_;
  int wrong_ = 0, samples_ = 0;
};

}  // namespace nibble::spike
