// Values that backward makes again instead of keeping them, with the bits of the first time.
#pragma once

#include <functional>

#include "autograd/tape.h"
#include "quant/one_pass.h"

namespace nibble {

// What a value was made of, by an operation that keeps it for its own backward pass anyway. A layer
// under save=recompute keeps this in place of what it will read of the value.
struct Origin {
  PairSource source;  // but for x, with what a norm found; Plain: the value is x
  Saved x;

  // With x, and new tensors for what making the value again writes.
  PairSource to_make() const;
  Tensor matrix() const;  // the value itself, [rows, cols]
  // The codes of its transpose by one pass over x, where a kernel serves.
  std::optional<QTensor> transposed_codes(const QuantSpec& spec, const RngKey& key) const;
};

// A value that is formed by its operation's `make` when the first node reads it in backward, and
// is gone with the last one that holds it (output=recompute).
class Remade {
 public:
  explicit Remade(std::function<Tensor()> make) : make_(std::move(make)) {}
  const Tensor& get();

 private:
  std::function<Tensor()> make_;
  Tensor value_;
};

}  // namespace nibble
