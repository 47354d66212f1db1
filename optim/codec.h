// StateCodec: how an optimizer's state is kept between steps. A state is a set of named tensors; a
// step decodes it to f32, updates it, and encodes it again.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quant/spec.h"
#include "tensor/rng.h"
#include "tensor/tensor.h"

namespace nibble {

// Named tensors that hold one state of one parameter; what checkpoints store.
struct EncodedState {
  std::vector<std::pair<std::string, Tensor>> tensors;
  Tensor& operator[](std::string_view name);  // throws Error("state") when absent
  const Tensor& operator[](std::string_view name) const;
  std::int64_t bytes() const;
};

// Implementations are stateless and deterministic; noise comes from the key. On a GPU they must not
// copy to or from the host, or their runs need --graph off. `x` is f32,
// contiguous, [rows, cols]: the parameter's matrix, a vector as one row.
class StateCodec {
 public:
  virtual ~StateCodec() = default;
  virtual std::string name()
      const = 0;  // its word in configs; find_codec(name()) gives an equal codec
  virtual EncodedState make(std::int64_t rows, std::int64_t cols,
                            Device device) const = 0;  // of zeros
  virtual void decode(Tensor& x, const EncodedState& state) const = 0;
  virtual void encode(EncodedState& state, const Tensor& x, const RngKey& key) const = 0;
  // What a kernel that works on stored states may count on (adam_stored): decode and encode are
  // conversions of "value", or dequantize and quantize_into of "codes" and "scales" under `spec`.
  struct Form {
    std::optional<QuantSpec> spec;  // none: values
  };
  virtual std::optional<Form> form() const { return std::nullopt; }  // neither
};
using CodecPtr = std::shared_ptr<const StateCodec>;

CodecPtr dense_codec(DType dtype = DType::F32);  // "f32", "bf16" (nearest even)
// Stored as codes and scales: what the memory of low-bit moments is saved by.
CodecPtr quantized_codec(const QuantSpec& spec);
// The study's form: stored in f32, quantized and decoded at the start of every step
// (quantization-study.md section 2). Saves nothing; exists to reproduce it.
CodecPtr simulated_codec(const QuantSpec& spec);
// "f32", "bf16", a spec text ("dyn8:group256"), "sim(SPEC)", or a registered name; throws
// Error("codec").
CodecPtr find_codec(std::string_view name);
void register_codec(CodecPtr codec);

}  // namespace nibble
