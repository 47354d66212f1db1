// One forward and backward pass, with everything that it computes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "models/language_model.h"

namespace nibble::compare {

enum class Kind : std::uint8_t {
  Output,     // of an operation
  Gradient,   // of that output
  Parameter,  // the gradient of a parameter
};

// The batch, and the seed of every draw (dropout, stochastic rounding).
struct Pass {
  Tensor ids, targets;  // [B, T] I32, on the model's device
  std::uint64_t seed = 0;
};

// Outputs and their gradients are named MODULE/OPERATION, a repeated one MODULE/OPERATION.2 and so
// on in the order of execution; gradients of parameters by the parameter. "token_losses" [B·T] is
// the loss of each position.
using Sink = std::function<void(Kind, const std::string& name, const Tensor& value)>;

// The pass of a training step, as far as the gradients: tells `sink` every tensor in the order of
// computing and returns the mean loss. The model's gradients are used up.
double run_pass(LanguageModel& model, const Pass& pass, const Sink& sink);

// Copies on the CPU, in their own dtypes.
class Captured {
 public:
  struct Item {
    Kind kind;
    std::string name;
    Tensor value;
  };
  void add(Kind kind, const std::string& name, const Tensor& value);
  const std::vector<Item>& items() const { return items_; }
  static constexpr std::size_t kNone = ~std::size_t{0};
  std::size_t find(Kind kind, const std::string& name) const;  // index in items(), or kNone
  std::vector<std::string> names() const;                      // each once, in order

  double loss = 0;

 private:
  std::vector<Item> items_;
  std::map<std::pair<Kind, std::string>, std::size_t> index_;
};
Captured capture(LanguageModel& model, const Pass& pass);

// A contiguous copy on the CPU that nobody else writes to.
Tensor host_copy(const Tensor& value);

}  // namespace nibble::compare
